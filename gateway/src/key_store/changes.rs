//! The changes that an operator makes, by the command line or the admin listener.

use portcullis_api::UnixSeconds;
use portcullis_plugins::authentication::{ApiKeyFileError, IssueRequest, Ledger, Made, RotateRequest, Row};

use super::StoreError;

/// Of the rows of a tenant.
pub(crate) fn issue(
    ledger: Ledger,
    request: IssueRequest,
    now: UnixSeconds,
) -> impl FnOnce(&[Row]) -> Result<(Made, Vec<Row>), StoreError> + Send + 'static {
    move |rows| made(|entropy| ledger.issue(rows, request, entropy, now))
}

/// Of one row.
pub(crate) fn rotate(
    ledger: Ledger,
    request: RotateRequest,
    now: UnixSeconds,
) -> impl FnOnce(&[Row]) -> Result<(Made, Vec<Row>), StoreError> + Send + 'static {
    move |rows| made(|entropy| ledger.rotate(one(rows)?, request, entropy, now))
}

/// Of one row. Answers whether there was anything to revoke.
pub(crate) fn revoke(
    ledger: Ledger,
    now: UnixSeconds,
) -> impl FnOnce(&[Row]) -> Result<(bool, Vec<Row>), StoreError> + Send + 'static {
    move |rows| {
        let revoked = ledger.revoke(one(rows)?, now)?;
        Ok((revoked.is_some(), revoked.into_iter().collect()))
    }
}

fn one(rows: &[Row]) -> Result<&Row, ApiKeyFileError> {
    rows.first().ok_or_else(|| ApiKeyFileError::Unknown("?".to_owned()))
}

fn made(
    make: impl FnOnce(&mut dyn FnMut(&mut [u8])) -> Result<Made, ApiKeyFileError>,
) -> Result<(Made, Vec<Row>), StoreError> {
    let mut filled = Ok(());
    let mut entropy = |bytes: &mut [u8]| {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            filled = Err(StoreError::NoRandomness);
        }
    };
    let mut made = make(&mut entropy);
    filled?;
    let rows = made.as_mut().map(|made| std::mem::take(&mut made.rows)).unwrap_or_default();
    Ok((made?, rows))
}
