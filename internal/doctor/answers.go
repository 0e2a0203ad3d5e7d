package doctor

import (
	"encoding/json"
	"net"
	"net/http"
	"time"
)

// answersAsRelay asks whoever listens on an address whether it is one of ours.
func answersAsRelay(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	cl := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := cl.Get("http://" + net.JoinHostPort(host, port) + "/api/status")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var status struct{ Service string }
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(&status) == nil && status.Service == "outbox-relay"
}
