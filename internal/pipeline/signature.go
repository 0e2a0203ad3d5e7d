package pipeline

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// Sign returns the signature of a body sent at a time: t=<unix seconds>, then
// v1=<HMAC-SHA256 in hex> for each key. Two keys are for the days in which a
// key is replaced: whoever knows either of them finds one that fits. The time
// is part of what is signed, so that an old request can be told from a new one.
func Sign(at time.Time, body []byte, keys ...string) string {
	t := strconv.FormatInt(at.Unix(), 10)
	var b strings.Builder
	b.WriteString("t=" + t)
	for _, key := range keys {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(t + "."))
		mac.Write(body)
		b.WriteString(",v1=" + hex.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}
