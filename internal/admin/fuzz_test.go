package admin

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/secret"
)

// Whatever a request claims: without the token no verb is done, and with it only
// for a request of our own origin, to a name that is this host's.
func FuzzAdmit(f *testing.F) {
	f.Add("127.0.0.1:8081", "", "", "", "Bearer "+token, "application/json", "{}")
	f.Add("localhost", "http://localhost", "same-origin", "cors", "Bearer "+token, "", "")
	f.Add("evil.example", "http://evil.example", "cross-site", "navigate", "Bearer x", "text/plain", "a=b")
	f.Add("[::1]:1", "null", "none", "", "Basic "+token, "application/json; charset=utf-8", `{"fail":`)
	f.Fuzz(func(t *testing.T, host, origin, site, mode, auth, kind, body string) {
		s := New(Config{Addr: "127.0.0.1:8081", Token: secret.New(token)}, zerolog.Nop())
		reached := false
		s.Guarded("POST /do", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reached = true
			var v struct{}
			if bad := Read(r, &v); bad != nil {
				Refuse(w, bad)
			}
		}))
		r := httptest.NewRequest(http.MethodPost, "/do", strings.NewReader(body))
		r.Host = host
		for name, value := range map[string]string{"Origin": origin, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Authorization": auth, "Content-Type": kind} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if !reached {
			if w.Code < 400 && w.Code != http.StatusTemporaryRedirect {
				t.Errorf("refused with %d", w.Code)
			}
			return
		}
		if strings.TrimSpace(strings.TrimPrefix(auth, "Bearer ")) != token {
			t.Errorf("let in with %q", auth)
		}
		if site != "" && site != "same-origin" && site != "none" {
			t.Errorf("let in from site %q", site)
		}
		if u, err := url.Parse(origin); origin != "" && (err != nil || !strings.EqualFold(u.Host, host)) {
			t.Errorf("let in from origin %q at %q", origin, host)
		}
		if h := strings.ToLower(host); !strings.Contains(h, "localhost") && !strings.Contains(h, "127.") && !strings.Contains(h, "1") {
			t.Errorf("let in at host %q", host)
		}
	})
}
