package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/holdwall/outbox-relay/internal/secret"
)

// maxSecretFile bounds what is read as a secret: a wrong path that names a log
// or a device must not fill memory.
const maxSecretFile = 64 << 10

// credentialAge is how old a secret from a file may get before the file is
// read again: often enough for a rotation, seldom enough for a busy pipeline.
const credentialAge = 5 * time.Second

// Credential is a secret, or the file that holds it. The zero value is none.
type Credential struct {
	Text secret.Text
	File string
}

// Set tells whether there is one.
func (c Credential) Set() bool { return c.Text.Set() || c.File != "" }

// Read returns the secret as it is now.
func (c Credential) Read() (secret.Text, error) {
	if c.File == "" {
		return c.Text, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return secret.Text{}, err
	}
	defer f.Close()
	buf, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return secret.Text{}, fmt.Errorf("read %s: %w", c.File, err)
	}
	if len(buf) > maxSecretFile {
		return secret.Text{}, fmt.Errorf("read %s: it is too long for a secret", c.File)
	}
	// Editors and echo end a file with a line break; no secret does.
	text := string(bytes.TrimRight(buf, "\r\n"))
	if text == "" {
		return secret.Text{}, fmt.Errorf("read %s: %w", c.File, errEmptyFile)
	}
	return secret.New(text), nil
}

var errEmptyFile = errors.New("the file is empty")

// rotating is a credential that is read again as it ages.
type rotating struct {
	Credential
	now func() time.Time

	mu   sync.Mutex
	last secret.Text
	at   time.Time
}

func newRotating(c Credential, now func() time.Time) (*rotating, error) {
	r := &rotating{Credential: c, now: now}
	if !c.Set() {
		return r, nil
	}
	text, err := c.Read()
	if err != nil {
		return nil, err
	}
	r.last, r.at = text, now()
	return r, nil
}

// get returns the newest secret that could be read. A file that is missing in
// the middle of its replacement leaves the old secret in use: a receiver that
// no longer takes it says so, and that is tried again.
func (r *rotating) get() secret.Text {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.File == "" || r.now().Sub(r.at) < credentialAge {
		return r.last
	}
	if text, err := r.Read(); err == nil {
		r.last = text
	}
	r.at = r.now()
	return r.last
}
