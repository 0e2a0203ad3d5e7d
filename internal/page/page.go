// Package page is the web page of a relay: one set of files in the binary, and
// nothing to build or to fetch from elsewhere.
//
// Its job is to let somebody who has never seen this relay know in ten seconds
// whether it delivers, whether the disk of the database will fill, and what to
// type. The page reads /api/status, /api/events, /api/history, /api/recent and
// /api/health beside it; on the admin listener also /api/dlq and the verbs, with a
// token that the user types and the tab keeps.
//
// Invariants: it works offline. No script, style or image comes from elsewhere or
// stands in the page, and the browser is told to refuse any that does. What rows
// hold is put into the document as text: the policy leaves the page no way to make
// markup of a text, whoever wrote it.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

//go:embed files
var files embed.FS

// policy lets the page use what comes with it, and nothing else. No text can
// become markup or script: there is no Trusted Types policy that could make it so.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}

// Routes tells where the page is served on a listener that only reads.
func Routes(handle func(pattern string, h http.Handler)) {
	AdminRoutes(handle)
	handle("GET /api/admin", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"admin":false}` + "\n")) // the other side may have gone
	}))
}

// AdminRoutes tells where it is served on the admin listener, which says for
// itself that it is that.
func AdminRoutes(handle func(pattern string, h http.Handler)) {
	handle("GET /{$}", file("index.html"))
	entries, err := files.ReadDir("files")
	if err != nil {
		return // they are in the binary
	}
	for _, e := range entries {
		if e.Name() != "index.html" {
			handle("GET /page/"+e.Name(), file(e.Name()))
		}
	}
	handle("GET /api/codes/{code}", http.HandlerFunc(code))
}

func file(name string) http.Handler {
	text, _ := files.ReadFile("files/" + name) // nothing, for a name that there is not
	sum := sha256.Sum256(text)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		secure(h)
		h.Set("Content-Type", kinds[path.Ext(name)])
		h.Set("Cache-Control", "no-cache") // asked for each time, and sent when it has changed
		h.Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(text))
	})
}

func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), clipboard-write=(self)")
}

// code answers with what the manual says of a code beyond why and fix, as
// Markdown.
func code(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	text, ok := fault.Page(strings.ToUpper(r.PathValue("code")))
	if !ok {
		http.Error(w, "nothing more is said of it", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/markdown; charset=utf-8")
	_, _ = w.Write([]byte(text)) // the other side may have gone
}
