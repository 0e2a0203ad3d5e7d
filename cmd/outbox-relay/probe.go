package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

type probeCmd struct {
	Which string `arg:"" optional:"" enum:"live,ready,startup" default:"ready" help:"What is asked: live, ready or startup."`
}

// probeTimeout is what probes of the chart have, and of the image.
const probeTimeout = 3 * time.Second

// Run asks a relay or pipeline that runs on this host with the same HEALTH_ADDR. It
// is for places with no other HTTP client, as an image with nothing else in it.
func (c *probeCmd) Run(a *app) error {
	cfg, err := a.loader.Load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, probeTimeout)
	defer cancel()
	return probe(ctx, cfg.Health.Addr, map[string]string{"live": "/livez", "ready": "/readyz", "startup": "/startupz"}[c.Which], a.stdout)
}

func probe(ctx context.Context, addr, path string, w io.Writer) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "HEALTH_ADDR")
	}
	// It listens everywhere, so here too. A name would have to be resolved, and an
	// image need not have a file of hosts.
	switch ip := net.ParseIP(host); {
	case host == "", ip != nil && ip.Equal(net.IPv4zero):
		host = "127.0.0.1"
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	url := "http://" + net.JoinHostPort(host, port) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "HEALTH_ADDR")
	}
	// Never through a proxy: this is about this host.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if wrapped := (*neturl.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err // the rest of its text is said here
	}
	if err != nil {
		return fault.Wrap(err, fault.NobodyAnswers, "ask %s", url)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fault.Wrap(err, fault.NobodyAnswers, "ask %s", url)
	}
	fmt.Fprintln(w, strings.TrimSpace(string(body)))
	if res.StatusCode != http.StatusOK {
		return exitStatus(fault.Finding.ExitCode())
	}
	return nil
}
