// Verifies the assertion of a request that came through Portcullis. Node 18 or newer, no packages.
//
//   const gate = new Verifier("https://gw.example.com", "upstream:billing",
//     keySetFrom("http://127.0.0.1:9901/.well-known/portcullis/jwks.json"));
//   const claims = await gate.verify(req.method, req.url, req.headers["x-portcullis-assertion"]); // throws: answer 401
//
// req.url is the target as it came, not decoded. claims.kind is "user", "apikey" or "anonymous".
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const KEEP_MS = 300_000, RETRY_MS = 10_000, LEEWAY_S = 5;

export function keySetFrom(url) {
  return async () => {
    const answer = await fetch(url, { redirect: "error", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`the key set answered ${answer.status}`);
    return answer.json();
  };
}

function need(condition, why) {
  if (!condition) throw new Error(why);
}

function decode(text) {
  need(/^[A-Za-z0-9_-]+$/.test(text), "no base64url");
  return Buffer.from(text, "base64url");
}

export class Verifier {
  #keys = new Map();
  #fetched = -Infinity;
  #fetching;

  constructor(issuer, audience, fetchKeys) {
    Object.assign(this, { issuer, audience, fetchKeys });
  }

  async verify(method, target, assertion) {
    const parts = String(assertion).split(".");
    need(parts.length === 3, "no assertion");
    const head = JSON.parse(decode(parts[0]));
    // Exactly these members: `crit`, `jwk`, `jku` and their like ask for what nobody here does.
    need(Object.keys(head).sort().join() === "alg,kid,typ", "another header");
    need(head.alg === "ES256" && head.typ === "portcullis-assertion+jwt", "another kind of token");
    const key = await this.#key(head.kid);
    const signature = decode(parts[2]);
    const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
    need(signature.length === 64 && verify("sha256", signed, { key, dsaEncoding: "ieee-p1363" }, signature), "another signature");
    const claims = JSON.parse(decode(parts[1]));
    need(claims.iss === this.issuer && claims.aud === this.audience, "not for us");
    const now = Date.now() / 1000;
    need(Number.isInteger(claims.exp) && Number.isInteger(claims.iat), "no time");
    need(now < claims.exp + LEEWAY_S && claims.iat <= now + LEEWAY_S, "not now");
    const at = target.indexOf("?");
    const [path, query] = at < 0 ? [target, ""] : [target.slice(0, at), target.slice(at + 1)];
    const qh = createHash("sha256").update(query).digest("base64url");
    need(claims.htm === method && claims.htu === path && claims.qh === qh, "another request");
    need(["user", "apikey", "anonymous"].includes(claims.kind), "nobody");
    need((claims.kind === "anonymous") === (claims.sub === undefined), "nobody");
    return claims;
  }

  async #key(kid) {
    const age = Date.now() - this.#fetched;
    // An unknown key may be a new one, but strangers must not make us ask all the time.
    if (age > KEEP_MS || (!this.#keys.has(kid) && age > RETRY_MS)) {
      this.#fetched = Date.now();
      this.#fetching = this.fetchKeys().then(({ keys }) => {
        const ours = keys.filter((jwk) => jwk.alg === "ES256" && jwk.kty === "EC" && jwk.crv === "P-256");
        this.#keys = new Map(ours.map((jwk) => [jwk.kid, createPublicKey({ key: jwk, format: "jwk" })]));
      });
    }
    await this.#fetching;
    need(this.#keys.has(kid), "an unknown key");
    return this.#keys.get(kid);
  }
}

// The tests: cases on standard input, a verdict for each on standard output.
if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const vectors = JSON.parse(readFileSync(0));
  const gate = new Verifier(vectors.issuer, vectors.audience, async () => vectors.jwks);
  for (const { name, method, target, assertion } of vectors.cases) {
    const verdict = await gate.verify(method, target, assertion).then((claims) => claims.kind, () => "refused");
    console.log(name, verdict);
  }
}
