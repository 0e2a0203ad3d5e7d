package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// The mechanisms, as they are written in a configuration.
const (
	mechPlain  = "plain"
	mechSHA256 = "scram-sha-256"
	mechSHA512 = "scram-sha-512"
	mechOAuth  = "oauthbearer"
	mechMSKIAM = "aws-msk-iam"
)

// mechanisms is the list for people.
const mechanisms = "plain, scram-sha-256, scram-sha-512, oauthbearer and aws-msk-iam"

// maxSecretFile bounds what is read as a password: a wrong path that names a
// log or a device must not fill memory.
const maxSecretFile = 64 << 10

func (c *Config) validateSASL() []*fault.Error {
	s := c.SASL
	var faults []*fault.Error
	bad := func(what, why, fix string) {
		faults = append(faults, &fault.Error{Code: fault.ConfigInvalid, Detail: what, Why: why, Fix: fix})
	}
	if s.Mechanism == "" {
		if s.Username != "" || s.Password.Set() || s.PasswordFile != "" {
			bad("KAFKA_SASL_MECHANISM is not set, but a user or password is", "without a mechanism nobody would authenticate", "KAFKA_SASL_MECHANISM=scram-sha-512")
		}
		return faults
	}
	switch plainName(s.Mechanism) {
	case mechPlain, mechSHA256, mechSHA512, mechOAuth, mechMSKIAM:
	default:
		bad(fmt.Sprintf("KAFKA_SASL_MECHANISM is %q", s.Mechanism), "known mechanisms are "+mechanisms, "KAFKA_SASL_MECHANISM=scram-sha-512")
	}
	// A token says itself whose it is.
	if s.Username == "" && plainName(s.Mechanism) != mechOAuth {
		bad("KAFKA_SASL_USERNAME is not set", "the mechanism needs a user", "KAFKA_SASL_USERNAME=<user>")
	}
	switch {
	case s.Password.Set() && s.PasswordFile != "":
		bad("KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE are both set", "they may differ, and one of them would be ignored", "keep one")
	case s.PasswordFile != "":
		if _, err := s.password(); err != nil {
			faults = append(faults, fault.Wrap(err, fault.ConfigInvalid, "KAFKA_SASL_PASSWORD_FILE").
				WithWhy("the password cannot be read").WithFix("name a readable file that holds the password alone"))
		}
	case !s.Password.Set():
		bad("KAFKA_SASL_PASSWORD is not set", "the mechanism needs a password", "KAFKA_SASL_PASSWORD_FILE=<file>")
	}
	return faults
}

// mechanism returns the client's side of the authentication. The password is
// asked for each time, so a rotated file is used at the next connection. It is
// the token of oauthbearer and the secret key of aws-msk-iam.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch plainName(s.Mechanism) {
	case mechPlain:
		return marked{plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := s.password()
			return plain.Auth{User: s.Username, Pass: pass.Reveal()}, err
		})}, nil
	case mechSHA256:
		return marked{scram.Sha256(s.scram)}, nil
	case mechSHA512:
		return marked{scram.Sha512(s.scram)}, nil
	case mechOAuth:
		return marked{oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := s.password()
			return oauth.Auth{Zid: s.Username, Token: token.Reveal()}, err
		})}, nil
	case mechMSKIAM:
		return marked{aws.ManagedStreamingIAM(func(context.Context) (aws.Auth, error) {
			key, err := s.password()
			return aws.Auth{AccessKey: s.Username, SecretKey: key.Reveal(), SessionToken: s.SessionToken.Reveal()}, err
		})}, nil
	}
	return nil, fault.New(fault.ConfigInvalid, "KAFKA_SASL_MECHANISM is %q", s.Mechanism)
}

func (s SASL) scram(context.Context) (scram.Auth, error) {
	pass, err := s.password()
	return scram.Auth{User: s.Username, Pass: pass.Reveal()}, err
}

func (s SASL) password() (Secret, error) {
	if s.PasswordFile == "" {
		return s.Password, nil
	}
	f, err := os.Open(s.PasswordFile)
	if err != nil {
		return Secret{}, &saslFileError{err: err}
	}
	defer f.Close()
	buf, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return Secret{}, &saslFileError{err: err}
	case len(buf) > maxSecretFile:
		return Secret{}, &saslFileError{err: errors.New("the file is too long for a password")}
	}
	// Editors and echo end a file with a line break; no password does.
	pass := string(bytes.TrimRight(buf, "\r\n"))
	if pass == "" {
		return Secret{}, &saslFileError{err: errors.New("the file is empty")}
	}
	return secret.New(pass), nil
}

// saslFileError marks a failure to read the password at authentication time.
type saslFileError struct{ err error }

func (e *saslFileError) Error() string { return "read the password file: " + e.err.Error() }
func (e *saslFileError) Unwrap() error { return e.err }

// saslError marks a failure of our own side of an authentication: what the
// broker answered cannot be. The cause is not printed, as a library may quote
// in it what was exchanged.
type saslError struct {
	mechanism string
	refused   bool // the answer is the mechanism's own way to say no
	err       error
}

func (e *saslError) Error() string { return "authenticate with " + e.mechanism }
func (e *saslError) Unwrap() error { return e.err }

// marked is a mechanism whose errors have a type.
type marked struct{ sasl.Mechanism }

// Authenticate implements sasl.Mechanism.
func (m marked) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := m.Mechanism.Authenticate(ctx, host)
	if err != nil {
		return nil, nil, mark(&saslError{mechanism: m.Name(), err: err})
	}
	return markedSession{s, m.Name()}, first, nil
}

type markedSession struct {
	sasl.Session
	mechanism string
}

// Challenge implements sasl.Session.
func (s markedSession) Challenge(challenge []byte) (bool, []byte, error) {
	done, answer, err := s.Session.Challenge(challenge)
	if err != nil {
		// Who presents a token or a signature is answered with an empty or an
		// explaining challenge; there is nothing else to be read from it.
		no := !strings.HasPrefix(s.mechanism, "SCRAM")
		return false, nil, mark(&saslError{mechanism: s.mechanism, refused: no, err: err})
	}
	return done, answer, nil
}

func mark(e *saslError) error {
	var file *saslFileError
	if errors.As(e.err, &file) {
		return e.err
	}
	return e
}
