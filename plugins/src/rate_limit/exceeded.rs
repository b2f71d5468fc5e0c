//! The one reason of the controls that count: `burst`, `rate_limit`, `quota`.

/// `Deny` of a control that counts. What is told of it is the excess; `$rule` names the rule, where there are several.
macro_rules! exceeded {
    ($name:literal, $title:literal, $exceeds:literal, $rule:expr) => {
        /// Why a request is refused.
        #[derive(Debug, Clone)]
        pub enum Deny {
            #[doc = $exceeds]
            Exceeded($crate::rate_limit::Excess),
        }

        const EXCEEDED: portcullis_api::Code = portcullis_api::Code { name: $name, status: 429, title: $title };

        impl portcullis_api::Refusal for Deny {
            const CODES: &'static [portcullis_api::Code] = &[EXCEEDED];

            fn code(&self) -> portcullis_api::Code {
                match self {
                    Self::Exceeded(_) => EXCEEDED,
                }
            }

            fn rule(&self) -> Option<std::borrow::Cow<'_, str>> {
                let rule: fn(&$crate::rate_limit::Excess) -> Option<&str> = $rule;
                let Self::Exceeded(excess) = self;
                rule(excess).map(std::borrow::Cow::Borrowed)
            }

            fn detail(&self) -> Option<std::borrow::Cow<'_, str>> {
                let Self::Exceeded(excess) = self;
                Some(std::borrow::Cow::Owned(excess.detail()))
            }

            fn headers(&self, answer: &mut http::HeaderMap) {
                let Self::Exceeded(excess) = self;
                excess.write_headers(answer);
            }

            fn members(&self) -> Vec<(&'static str, Vec<String>)> {
                let Self::Exceeded(excess) = self;
                vec![("violated-policies", excess.violated_policies())]
            }
        }
    };
}
pub(crate) use exceeded;
