package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Promtool returns the command, or skips the test where it is not installed.
func Promtool(t testing.TB) string {
	t.Helper()
	return installed(t, "promtool")
}

func installed(t testing.TB, name string) string {
	t.Helper()
	bin, err := exec.LookPath(name)
	if err != nil {
		err = &MissingError{What: name, Err: errors.New("it is in the Debian package prometheus")}
	}
	need(t, err)
	return bin
}

// Prometheus is a server that scrapes what a test runs, every second.
type Prometheus struct {
	proc *process
	url  string
	log  serverLog
}

// NewPrometheus starts one, or skips the test where it is not installed. jobs
// are the addresses to scrape by name of the job, rules a file of rules.
func NewPrometheus(t testing.TB, jobs map[string][]string, rules string) *Prometheus {
	t.Helper()
	bin := installed(t, "prometheus")
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	dir, addr := t.TempDir(), hostPort(ports[0])
	type static struct {
		Targets []string `json:"targets"`
	}
	type job struct {
		Name    string   `json:"job_name"`
		Statics []static `json:"static_configs"`
	}
	var config struct {
		Global map[string]string `json:"global"`
		Rules  []string          `json:"rule_files"`
		Jobs   []job             `json:"scrape_configs"`
	}
	config.Global = map[string]string{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
	config.Rules = []string{rules}
	for name, addrs := range jobs {
		config.Jobs = append(config.Jobs, job{name, []static{{addrs}}})
	}
	text, err := json.Marshal(config) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &Prometheus{url: "http://" + addr, log: serverLog(filepath.Join(dir, "log"))}
	out, err := p.log.open()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(bin, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	cmd.Env, cmd.Stdout, cmd.Stderr = childEnv(nil), out, out
	if p.proc, err = start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.proc.kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("prometheus:\n%s", p.log.last(30))
		}
	})
	return p
}

// Sample is one element of an instant vector.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates an expression now.
func (p *Prometheus) Query(ctx context.Context, expr string) ([]Sample, error) {
	var answer struct {
		Data struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
		Error string `json:"error"`
	}
	if err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" || answer.Data.Type != "vector" {
		return nil, fmt.Errorf("query %s: a %q, %s", expr, answer.Data.Type, answer.Error)
	}
	var result []struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
	}
	if err := json.Unmarshal(answer.Data.Result, &result); err != nil {
		return nil, err
	}
	samples := make([]Sample, len(result))
	for i, r := range result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, err
		}
		samples[i] = Sample{r.Metric, v}
	}
	return samples, nil
}

// Sick returns the rules that could not be evaluated.
func (p *Prometheus) Sick(ctx context.Context) ([]string, error) {
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name   string `json:"name"`
					Health string `json:"health"`
					Error  string `json:"lastError"`
				} `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	if err := p.get(ctx, "/api/v1/rules", &answer); err != nil {
		return nil, err
	}
	var sick []string
	n := 0
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				sick = append(sick, strings.TrimSpace(r.Name+" is "+r.Health+" "+r.Error))
			}
		}
	}
	if n == 0 {
		return []string{"no rules"}, nil
	}
	return sick, nil
}

func (p *Prometheus) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}
