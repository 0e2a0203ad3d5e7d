package main

import (
	"testing"

	"github.com/holdwall/outbox-relay/health"
)

func TestStatusLine(t *testing.T) {
	t.Parallel()
	for want, st := range map[string]health.Status{
		"starting":            {State: "starting"},
		"streaming as leader": {State: "streaming", Role: "leader"},
		"failed: OBX-4008 the slot is ahead; fix: serve --accept-gap 0/1:0/2": {
			State: "failed", Code: "OBX-4008", Detail: "OBX-4008 the slot is ahead", Fix: "serve --accept-gap 0/1:0/2",
		},
	} {
		if got := statusLine(st); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
