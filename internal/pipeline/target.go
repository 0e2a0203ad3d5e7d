package pipeline

import (
	"net/url"
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// parseTarget reads the URL of a webhook. What it says about a bad one holds
// nothing of it: paths and queries of webhooks are passwords as often as not.
func parseTarget(text secret.Text) (*url.URL, *fault.Error) {
	bad := func(why string) *fault.Error {
		return fault.New(fault.ConfigInvalid, "the webhook URL").WithWhy("%s", why).WithFix("--webhook-url https://service.example/events")
	}
	u, err := url.Parse(strings.TrimSpace(text.Reveal()))
	switch {
	case err != nil:
		return nil, bad("it cannot be read as a URL") // the error quotes it
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("it has to begin with http:// or https://")
	case u.Hostname() == "":
		return nil, bad("it names no host")
	case u.Fragment != "":
		return nil, bad("a fragment (#) is never sent")
	}
	return u, nil
}

// HasPassword tells whether a URL holds a password, and so does not belong on
// a command line.
func HasPassword(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

// place is what may be shown of a URL.
func place(u *url.URL) string { return u.Scheme + "://" + u.Host }
