package page

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// The page can be used without a mouse: everything that can be pressed is reached,
// in the order in which it is read, and shows that it has the focus.
func TestKeyboard(t *testing.T) {
	b, s := open(t), newStage(t, "")
	healthy(s)
	s.set(func() {
		s.view["findings"] = []any{map[string]any{"code": "OBX-4008", "name": "x", "severity": "warn", "detail": "d", "why": "w", "fix": "outbox-relay slot inspect"}}
	})
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelectorAll('#recent tbody tr').length === 50 && document.querySelector('.matter')")
	var reached []string
	last, lastTop := "", -1.0
	for range 25 {
		b.keys(t, tab)
		v, _ := b.eval(t, `const e = document.activeElement, r = e.getBoundingClientRect(), c = getComputedStyle(e);
			return { name: e.id || e.className || e.textContent.trim(), tag: e.tagName, top: r.top + scrollY, outline: c.outlineStyle + ' ' + c.outlineWidth, label: e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText || e.textContent };`).(map[string]any)
		if v["tag"] == "BODY" {
			break
		}
		name, _ := v["name"].(string)
		reached = append(reached, name)
		if outline, _ := v["outline"].(string); !strings.HasPrefix(outline, "solid") || strings.HasSuffix(outline, " 0px") {
			t.Errorf("%s shows no focus: %s", name, outline)
		}
		if label, _ := v["label"].(string); strings.TrimSpace(label) == "" {
			t.Errorf("%s has no name", name)
		}
		if top, _ := v["top"].(float64); top < lastTop-140 && last != "skip" {
			t.Errorf("the focus goes up from %s (%v) to %s (%v)", last, lastTop, name, top)
		} else {
			last, lastTop = name, top
		}
	}
	for _, want := range []string{"skip", "theme", "find", "scroll", "Copy"} {
		if !slices.Contains(reached, want) {
			t.Errorf("%s is not reached: %q", want, reached)
		}
	}
	// The first stop leads past the header.
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes'")
	b.keys(t, tab+enter)
	if id := b.eval(t, "return document.activeElement.id"); id != "main" {
		t.Errorf("the skip link leads to %v", id)
	}
	// Focus survives the beat of the page.
	b.eval(t, "document.querySelector('.matter .type button').focus(); window.seen = document.querySelector('#link-text').textContent; return 0")
	before := b.eval(t, "return document.querySelector('#facts').textContent")
	b.await(t, fmt.Sprintf("document.querySelector('#facts').textContent !== %q", before))
	if kept := b.eval(t, "return document.activeElement === document.querySelector('.matter .type button')"); kept != true {
		t.Error("an update took the focus away")
	}
	b.clean(t)
}

func TestColours(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.streaming(time.Minute)
	s.well()
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes'")
	background := func() string {
		v, _ := b.eval(t, "return getComputedStyle(document.documentElement).backgroundColor").(string)
		return v
	}
	light := background()
	b.scheme(t, "dark")
	dark := background()
	if light == dark {
		t.Errorf("dark and light are both %s", dark)
	}
	press := func() { b.eval(t, "document.querySelector('#theme').click()") }
	press() // light, whatever the system says
	if got := background(); got != light {
		t.Errorf("light was chosen, and it is %s", got)
	}
	press()
	b.scheme(t, "light")
	if got := background(); got != dark {
		t.Errorf("dark was chosen, and it is %s", got)
	}
	b.visit(t, s.URL+"/") // it is remembered
	if got := background(); got != dark {
		t.Errorf("after a reload it is %s", got)
	}
	// Words can be read: 4.5 to 1 against what they stand on, in both.
	for _, scheme := range []string{"light", "dark"} {
		b.eval(t, "document.documentElement.dataset.theme = arguments[0]", scheme)
		worst := b.eval(t, `const lum = (c) => { const m = c.match(/[\d.]+/g).slice(0, 3).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * m[0] + .7152 * m[1] + .0722 * m[2]; };
			const under = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
			let worst = [99, ''];
			for (const e of document.querySelectorAll('main *, header *, footer *')) {
				if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.offsetParent || e.closest('svg, .visually-hidden')) continue;
				const a = lum(getComputedStyle(e).color), b = lum(under(e)), r = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
				if (r < worst[0]) worst = [r, e.className + ' ' + e.textContent.slice(0, 40)];
			}
			return worst;`).([]any)
		if r, _ := worst[0].(float64); r < 4.5 {
			t.Errorf("%s: contrast of %v is %.2f", scheme, worst[1], r)
		}
	}
	// Motion only for those who like it.
	if got := b.eval(t, "return getComputedStyle(document.querySelector('.wire'), '::after').animationName"); got != "none" {
		t.Errorf("it moves although the system asks for rest: %v", got)
	}
	b.clean(t)
}

// What rows hold is text, whatever it looks like.
func TestHostileRows(t *testing.T) {
	b, s := open(t), newStage(t, token)
	s.streaming(time.Minute)
	s.well()
	hostile := []string{
		`<img src=x onerror="window.pwned=1">`, `<script>window.pwned=2</script>`, `"><svg onload=window.pwned=3>`, `javascript:window.pwned=4`,
		`</td></tr><h1>pwned</h1>`, `'-alert(1)-'`, "\u202eevil", `${window.pwned=5}`, `{{constructor.constructor('window.pwned=6')()}}`,
	}
	var rows []*kgo.Record
	for i, x := range hostile {
		rows = append(rows, record(x+fmt.Sprint(i), x, x, x, i, time.Now()))
	}
	s.rows = 9
	s.commit(time.Now(), time.Millisecond, rows)
	x := hostile[0] + hostile[2]
	s.set(func() {
		s.view = server(1<<20, 1, nil)
		s.view["slot"].(map[string]any)["holder"] = x
		s.view["findings"] = []any{map[string]any{"code": "OBX-4200", "name": x, "severity": "fail", "detail": x, "why": x, "fix": x}}
		s.shelf = []map[string]any{letterOf(x, "open"), letterOf(hostile[1], "open")}
	})
	b.visit(t, s.Admin+"/")
	b.await(t, "document.querySelectorAll('#recent tbody tr').length === 9 && document.querySelector('.matter') && document.querySelector('#token')")
	unlock(t, b, token)
	b.await(t, "document.querySelectorAll('#letters-body tbody tr').length === 4")
	b.eval(t, "for (const e of document.querySelectorAll('#letters-body button')) if (e.textContent === 'Show') e.click()")
	if got := b.eval(t, "return window.pwned ?? 'no'"); got != "no" {
		t.Errorf("script of a row has run: %v", got)
	}
	if n := b.eval(t, "return document.querySelectorAll('#recent img, #recent script, #recent svg, #matters img, #matters svg, #letters img, #letters script, #slot img, td h1').length"); n != 0.0 {
		t.Errorf("%v elements come from rows", n)
	}
	if got := b.text(t, "#recent"); !strings.Contains(got, `<img src=x onerror="window.pwned=1">`) {
		t.Errorf("the text is not shown as it is: %s", got)
	}
	// Nor could the page make markup of a text if it tried.
	got := b.eval(t, "try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); return 'made'; } catch (e) { return e.name; }")
	if got != "TypeError" {
		t.Errorf("Trusted Types are not enforced: %v", got)
	}
	b.clean(t, "TrustedHTML", "Trusted Type")
}

func letterOf(id, state string) map[string]any {
	return map[string]any{
		"id": id, "state": state, "time": "2026-11-28T16:00:00Z", "aggregate_type": "order", "aggregate_id": "4711", "type": "OrderPlaced", "reason": "too_large", "stage": "KAFKA_PRODUCE",
		"code": "OBX-2002", "message": "1048621 bytes, the topic takes 1048588", "topic": "outbox.events", "attempts": 1, "letter": map[string]any{"topic": "outbox.events.dlq", "partition": 0, "offset": 41},
		"headers": []any{map[string]any{"name": "id", "value": id}}, "key": "4711", "payload": `{"total": 12345678901234567890.50, "note": "` + id + `"}`,
	}
}

func unlock(t *testing.T, b *browser, with string) {
	t.Helper()
	b.eval(t, "document.querySelector('#token').focus()")
	b.keys(t, with+enter)
}

func TestReplay(t *testing.T) {
	b, s := open(t), newStage(t, token)
	healthy(s)
	s.set(func() {
		s.shelf = []map[string]any{letterOf("e1", "open"), letterOf("e2", "open"), letterOf("e3", "replayed")}
	})
	// The listener that only reads shows no letter, and says where to go.
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#letters-gate').innerText.includes('outbox-relay dlq list')")
	if got := b.text(t, "#letters-gate"); !strings.Contains(got, s.Admin) {
		t.Errorf("it does not lead to the admin listener: %s", got)
	}
	b.visit(t, s.Admin+"/")
	b.await(t, "document.querySelector('#token')")
	if n := b.eval(t, "return document.querySelectorAll('#letters-body tr').length + document.querySelectorAll('#hand-body button').length"); n != 0.0 {
		t.Errorf("without a token there are %v things", n)
	}
	unlock(t, b, "wrong-horse-battery-staple")
	b.await(t, "document.querySelector('#letters-outcome').innerText.includes('OBX-1041') && document.querySelector('#token')")
	unlock(t, b, token)
	b.await(t, "document.querySelectorAll('#letters-body tbody tr').length === 4") // two, each with its details
	shots(t, b, "letters")
	// A number of the payload is not rounded.
	b.eval(t, "[...document.querySelectorAll('#letters-body button')].find((e) => e.textContent === 'Show').click()")
	if got := b.text(t, ".letter"); !strings.Contains(got, "12345678901234567890.50") {
		t.Errorf("the payload is %s", got)
	}
	b.eval(t, "[...document.querySelectorAll('#letters-body button')].find((e) => e.textContent === 'Replay').click()")
	if focus := b.eval(t, "return document.activeElement.textContent"); focus != "Yes, replay it" {
		t.Errorf("the focus is on %v", focus)
	}
	s.set(func() {
		if len(s.replayed) > 0 {
			t.Error("replayed without being asked twice")
		}
	})
	b.keys(t, enter)
	b.await(t, "document.querySelector('#letters-outcome').innerText.includes('1 of 1 replayed') && document.querySelectorAll('#letters-body tbody tr').length === 2")
	s.set(func() {
		if len(s.replayed) != 1 || !slices.Equal(s.replayed[0], []string{"e1"}) {
			t.Errorf("replayed are %v", s.replayed)
		}
	})
	// The token is this tab's, and nowhere else.
	kept := b.eval(t, "return [JSON.stringify({...localStorage}), document.cookie, location.href, document.documentElement.outerHTML].join()")
	if text, _ := kept.(string); strings.Contains(text, token) {
		t.Error("the token is kept where it should not be")
	}
	// Pause and resume.
	b.eval(t, "document.querySelector('#reason').focus()")
	b.keys(t, "switchover"+tab+enter)
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Paused'")
	b.eval(t, "[...document.querySelectorAll('#hand-body button')].find((e) => e.textContent === 'Resume').click()")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes'")
	s.set(func() {
		if !slices.Equal(s.verbs, []string{"pause switchover", "resume "}) {
			t.Errorf("verbs are %q", s.verbs)
		}
	})
	b.clean(t, "401")
}

func TestAdminWithoutToken(t *testing.T) {
	b, s := open(t), newStage(t, "")
	healthy(s)
	b.visit(t, s.Admin+"/")
	b.await(t, "document.querySelector('#letters-gate').innerText.includes('No ADMIN_TOKEN is set')")
	if n := b.eval(t, "return document.querySelectorAll('#token, #hand-body button').length"); n != 0.0 {
		t.Errorf("%v things can be pressed", n)
	}
	b.clean(t)
}

// The page comes back by itself when the relay does, and says meanwhile that what
// is shown is old.
func TestReconnect(t *testing.T) {
	b, s := open(t), newStage(t, "")
	healthy(s)
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#link').dataset.link === 'live'")
	s.stop()
	b.await(t, "document.querySelector('#link').dataset.link === 'lost'")
	if got := b.text(t, "#link"); !strings.Contains(got, "no answer from this replica for") {
		t.Errorf("it says %q", got)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	again := &stage{state: s.state, rec: s.rec, lag: math.NaN(), checks: s.checks}
	again.trouble("halted", fault.Gap, "gap")
	again.listen(t, u.Host, "")
	b.await(t, "document.querySelector('#link').dataset.link === 'live' && document.querySelector('#answer-state .say').textContent === 'Halted'")
	b.eval(t, "window.time = document.querySelector('#facts').textContent")
	b.await(t, "document.querySelector('#facts').textContent !== window.time")
	if lost := b.eval(t, "return document.querySelector('#link').dataset.link"); lost != "live" {
		t.Errorf("the link is %v again", lost)
	}
	b.clean(t, "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
}

// A page that is shown by somebody else's frame or asked for with a method that
// changes something is none of ours.
func TestHeaders(t *testing.T) {
	s := newStage(t, "")
	for _, path := range []string{"/", "/page/app.js", "/page/style.css", "/page/icon.svg", "/api/codes/obx-4008"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		csp := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != http.StatusOK || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s may be read by other sites", path)
		}
		req, _ := http.NewRequest(http.MethodGet, s.URL+path, nil)
		req.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		if second, err := http.DefaultClient.Do(req); err != nil {
			t.Error(err)
		} else if second.Body.Close(); resp.Header.Get("ETag") != "" && second.StatusCode != http.StatusNotModified {
			t.Errorf("%s is sent again: %d", path, second.StatusCode)
		}
	}
	for _, path := range []string{"/page/", "/page/none.js", "/page/../page.go", "/api/codes/OBX-0000", "/api/codes/..%2fregistry"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
