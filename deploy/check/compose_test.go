package check

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

const composeFile = "deploy/compose.yaml"

// project is the compose file as compose reads it, with the given profiles: against
// its schema, names that it does not know being errors.
func project(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, composeFile))
	if err != nil {
		t.Fatal(err)
	}
	p, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir: filepath.Dir(path), ConfigFiles: []types.ConfigFile{{Filename: path}}, Environment: types.Mapping{},
	}, func(o *loader.Options) { o.Profiles = profiles })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func environOf(s types.ServiceConfig) []string {
	var all []string
	for name, value := range s.Environment {
		if value != nil {
			all = append(all, name+"="+*value)
		}
	}
	return all
}

func TestCompose(t *testing.T) {
	t.Parallel()
	p := project(t, "writer")
	var names []string
	ours := 0
	for name, s := range p.Services {
		names = append(names, name)
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s to every network", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
			if !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
		}
		for other, d := range s.DependsOn {
			if d.Condition == types.ServiceConditionStarted {
				t.Errorf("%s starts with %s, which need not be up then", name, other)
			}
			if to := p.Services[other]; d.Condition == types.ServiceConditionHealthy && (to.HealthCheck == nil || len(to.HealthCheck.Test) == 0) {
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			}
		}
		if s.Build == nil {
			if !regexp.MustCompile(`^[a-z/-]+:v?\d[\d.]*$`).MatchString(s.Image) {
				t.Errorf("%s has the image %q: which one is that next year?", name, s.Image)
			}
			continue
		}
		ours++
		judge(t, name, environOf(s))
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s is built from nothing: %v", name, err)
		}
		if !s.ReadOnly || len(s.CapDrop) == 0 {
			t.Errorf("%s may do more than it needs", name)
		}
		if status, _, errs := relay(t, nil, append(append([]string{}, s.Command...), "--help")...); status != 0 {
			t.Errorf("%s runs %q, which is no command: %s", name, s.Command, errs)
		}
	}
	if ours != 2 {
		t.Errorf("%d services of ours among %q", ours, names)
	}
	if n := p.Services["relay"].Deploy.Replicas; n == nil || *n != 2 {
		t.Error("one relay has nobody to take over")
	}
	if _, runs := project(t).Services["writer"]; runs {
		t.Error("the writer is not optional")
	}
}

// The broker of compose has what transactions need with one broker.
func TestComposeKafka(t *testing.T) {
	t.Parallel()
	kafka := project(t).Services["kafka"]
	get := func(name string) string {
		if v := kafka.Environment[name]; v != nil {
			return *v
		}
		return ""
	}
	for _, name := range []string{
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
	} {
		if get(name) != "1" {
			t.Errorf("%s is %q", name, get(name))
		}
	}
	protocols := get("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP")
	for _, l := range strings.Split(get("KAFKA_LISTENERS"), ",") {
		if name, _, _ := strings.Cut(l, ":"); !strings.Contains(protocols, name+":") {
			t.Errorf("listener %s has no protocol", name)
		}
	}
	if !strings.Contains(get("KAFKA_ADVERTISED_LISTENERS"), "://kafka:9092") {
		t.Error("the relays are sent to another address than the one that they have")
	}
}

// What Prometheus and Grafana are given fits together.
func TestComposeMonitoring(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool", "prometheus")
	dir := t.TempDir()
	conf := strings.ReplaceAll(text(t, "deploy/compose/prometheus.yml"), "/etc/prometheus/", dir+"/")
	for name, data := range map[string]string{"prometheus.yml": conf, "outbox-relay.rules.yml": text(t, "deploy/prometheus/outbox-relay.rules.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "config", filepath.Join(dir, "prometheus.yml")).CombinedOutput(); err != nil {
		t.Errorf("promtool check config: %v\n%s", err, out)
	}
	var scraped struct {
		Jobs []struct {
			DNS []struct {
				Names []string `yaml:"names"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(conf), &scraped); err != nil {
		t.Fatal(err)
	}
	p := project(t)
	for _, name := range scraped.Jobs[0].DNS[0].Names {
		if _, ok := p.Services[name]; !ok {
			t.Errorf("Prometheus looks for %s, which is no service", name)
		}
	}
	grafana := p.Services["grafana"]
	var provider struct {
		Providers []struct {
			Options struct {
				Path string `yaml:"path"`
			} `yaml:"options"`
		} `yaml:"providers"`
	}
	if err := yaml.Unmarshal([]byte(text(t, "deploy/compose/grafana/dashboards.yml")), &provider); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, v := range grafana.Volumes {
		found = found || v.Target == provider.Providers[0].Options.Path && filepath.Base(v.Source) == "grafana"
	}
	if !found {
		t.Errorf("nothing is mounted at %s", provider.Providers[0].Options.Path)
	}
	var dashboard struct {
		UID        string `json:"uid"`
		Templating struct {
			List []struct {
				Type  string          `json:"type"`
				Query json.RawMessage `json:"query"`
			} `json:"list"`
		} `json:"templating"`
	}
	if err := json.Unmarshal([]byte(text(t, "deploy/grafana/outbox-relay.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	asks := ""
	for _, v := range dashboard.Templating.List {
		if v.Type == "datasource" {
			asks = string(v.Query)
		}
	}
	if dashboard.UID == "" || asks != `"prometheus"` {
		t.Errorf("the dashboard %q asks for a data source of %s", dashboard.UID, asks)
	}
}
