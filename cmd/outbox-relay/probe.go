package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // it listens everywhere, so here too
	}
	url := "http://" + net.JoinHostPort(host, port) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "HEALTH_ADDR")
	}
	// Never through a proxy: this is about this host.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
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
