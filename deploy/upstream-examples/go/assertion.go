// Verifies the assertion of a request that came through Portcullis. Go 1.19 or newer, standard library only.
//
//	gate := &Verifier{Issuer: "https://gw.example.com", Audience: "upstream:billing",
//		Fetch: KeySetFrom("http://127.0.0.1:9901/.well-known/portcullis/jwks.json")}
//	claims, err := gate.Verify(r.Method, r.RequestURI, r.Header.Get("X-Portcullis-Assertion")) // err: answer 401
//
// RequestURI is the target as it came, not decoded. Kind is "user", "apikey" or "anonymous".
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const keep, retry, leeway = 300 * time.Second, 10 * time.Second, int64(5)

// Claims of a verified assertion.
type Claims struct {
	Iss, Aud, Kind, Sub, Tid, Role, Env, Htm, Htu, Qh string
	Exp, Iat                                          int64
	Scp                                               []string
	KeyID                                             string `json:"key_id"`
}

// JWKS is a key set.
type JWKS struct {
	Keys []struct{ Kid, Alg, Crv, X, Y string }
}

// Verifier of one app.
type Verifier struct {
	Issuer, Audience string
	Fetch            func() (JWKS, error)

	mutex   sync.Mutex
	keys    map[string]*ecdsa.PublicKey
	fetched time.Time
}

// KeySetFrom fetches the key set from a pinned URL.
func KeySetFrom(url string) func() (JWKS, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	return func() (set JWKS, err error) {
		answer, err := client.Get(url)
		if err != nil {
			return set, err
		}
		defer answer.Body.Close()
		return set, json.NewDecoder(io.LimitReader(answer.Body, 1<<18)).Decode(&set)
	}
}

// Verify answers the claims, or why the request must not be served.
func (v *Verifier) Verify(method, target, assertion string) (claims Claims, err error) {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return claims, errors.New("no assertion")
	}
	var head map[string]string // a member that is no text fails here
	if err := decode(parts[0], &head); err != nil {
		return claims, err
	}
	// Exactly these members: `crit`, `jwk`, `jku` and their like ask for what nobody here does.
	if len(head) != 3 || head["alg"] != "ES256" || head["typ"] != "portcullis-assertion+jwt" {
		return claims, errors.New("another kind of token")
	}
	key, err := v.key(head["kid"])
	if err != nil {
		return claims, err
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return claims, errors.New("no ES256 signature")
	}
	signed := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(key, signed[:], r, s) {
		return claims, errors.New("another signature")
	}
	if err := decode(parts[1], &claims); err != nil {
		return claims, err
	}
	return claims, v.check(&claims, method, target)
}

func (v *Verifier) check(claims *Claims, method, target string) error {
	path, query, _ := strings.Cut(target, "?")
	hash, now := sha256.Sum256([]byte(query)), time.Now().Unix()
	switch {
	case claims.Iss != v.Issuer || claims.Aud != v.Audience:
		return errors.New("not for us")
	case now >= claims.Exp+leeway || claims.Iat > now+leeway || claims.Iat == 0:
		return errors.New("not now")
	case claims.Htm != method || claims.Htu != path || claims.Qh != base64.RawURLEncoding.EncodeToString(hash[:]):
		return errors.New("another request")
	case (claims.Kind == "user" || claims.Kind == "apikey") && claims.Sub != "":
		return nil
	case claims.Kind == "anonymous" && claims.Sub == "":
		return nil
	}
	return errors.New("nobody")
}

func (v *Verifier) key(kid string) (*ecdsa.PublicKey, error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	age := time.Since(v.fetched)
	// An unknown key may be a new one, but strangers must not make us ask all the time.
	if age > keep || (v.keys[kid] == nil && age > retry) {
		v.fetched = time.Now()
		set, err := v.Fetch()
		if err != nil {
			return nil, err
		}
		v.keys = map[string]*ecdsa.PublicKey{}
		for _, jwk := range set.Keys {
			x, errX := base64.RawURLEncoding.DecodeString(jwk.X)
			y, errY := base64.RawURLEncoding.DecodeString(jwk.Y)
			key := &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
			if jwk.Alg == "ES256" && jwk.Crv == "P-256" && errX == nil && errY == nil && key.IsOnCurve(key.X, key.Y) {
				v.keys[jwk.Kid] = key
			}
		}
	}
	if key := v.keys[kid]; key != nil {
		return key, nil
	}
	return nil, errors.New("an unknown key")
}

func decode(part string, into any) error {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// The tests: cases on standard input, a verdict for each on standard output.
func main() {
	var vectors struct {
		Issuer, Audience string
		Jwks             JWKS
		Cases            []struct{ Name, Method, Target, Assertion string }
	}
	if err := json.NewDecoder(os.Stdin).Decode(&vectors); err != nil {
		panic(err)
	}
	gate := &Verifier{Issuer: vectors.Issuer, Audience: vectors.Audience,
		Fetch: func() (JWKS, error) { return vectors.Jwks, nil }}
	for _, c := range vectors.Cases {
		verdict := "refused"
		if claims, err := gate.Verify(c.Method, c.Target, c.Assertion); err == nil {
			verdict = claims.Kind
		}
		fmt.Println(c.Name, verdict)
	}
}
