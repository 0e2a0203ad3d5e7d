package check

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

const chartDir = root + "/deploy/helm/outbox-relay"

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// serviceMonitor and prometheusRule are the parts of the operator's types that the
// chart uses; what is not here is an error.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		JobLabel          string                        `json:"jobLabel"`
		NamespaceSelector struct{ MatchNames []string } `json:"namespaceSelector"`
		Selector          metav1.LabelSelector          `json:"selector"`
		Endpoints         []struct {
			Port, Path, Interval string
		} `json:"endpoints"`
	} `json:"spec"`
}

type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ruleFile `json:"spec"`
}

type ruleFile struct {
	Groups []struct {
		Name     string `json:"name"`
		Interval string `json:"interval"`
		Rules    []struct {
			Record, Alert, Expr, For string
			KeepFiringFor            string            `json:"keep_firing_for"`
			Labels                   map[string]string `json:"labels"`
			Annotations              map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

// release is what a set of values makes, decoded strictly.
type release struct {
	notes       string
	deployment  *appsv1.Deployment
	service     *corev1.Service
	account     *corev1.ServiceAccount
	configMaps  map[string]*corev1.ConfigMap
	budget      *policyv1.PodDisruptionBudget
	policy      *networkingv1.NetworkPolicy
	job         *batchv1.Job
	doctor      *corev1.Pod
	monitor     *serviceMonitor
	rule        *prometheusRule
	all         []metav1.ObjectMeta
	name        string
	secretNames []string
}

// values reads a file of values, or a text.
func values(t *testing.T, text string) chartutil.Values {
	t.Helper()
	v, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func valuesFile(t *testing.T, name string) chartutil.Values {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "values", name))
	if err != nil {
		t.Fatal(err)
	}
	return values(t, string(data))
}

// render is helm template: the values against the schema, and the templates.
func render(t *testing.T, v chartutil.Values) (map[string]string, error) {
	t.Helper()
	c := loadChart(t)
	if err := chartutil.ProcessDependenciesWithMerge(c, v); err != nil {
		return nil, err
	}
	top, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: "orders", Namespace: "shop", Revision: 1, IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.Render(c, top)
}

func install(t *testing.T, v chartutil.Values) *release {
	t.Helper()
	files, err := render(t, v)
	if err != nil {
		t.Fatal(err)
	}
	r := &release{configMaps: map[string]*corev1.ConfigMap{}}
	decode := func(name, text string, into any) {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[name])
		if strings.HasSuffix(name, "NOTES.txt") {
			r.notes = text
			continue
		}
		if text == "" {
			continue
		}
		var kind struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		r.all = append(r.all, kind.ObjectMeta)
		switch kind.APIVersion + "/" + kind.Kind {
		case "apps/v1/Deployment":
			r.deployment = new(appsv1.Deployment)
			decode(name, text, r.deployment)
		case "v1/Service":
			r.service = new(corev1.Service)
			decode(name, text, r.service)
		case "v1/ServiceAccount":
			r.account = new(corev1.ServiceAccount)
			decode(name, text, r.account)
		case "v1/ConfigMap":
			cm := new(corev1.ConfigMap)
			decode(name, text, cm)
			r.configMaps[cm.Name] = cm
		case "policy/v1/PodDisruptionBudget":
			r.budget = new(policyv1.PodDisruptionBudget)
			decode(name, text, r.budget)
		case "networking.k8s.io/v1/NetworkPolicy":
			r.policy = new(networkingv1.NetworkPolicy)
			decode(name, text, r.policy)
		case "batch/v1/Job":
			r.job = new(batchv1.Job)
			decode(name, text, r.job)
		case "v1/Pod":
			r.doctor = new(corev1.Pod)
			decode(name, text, r.doctor)
		case "monitoring.coreos.com/v1/ServiceMonitor":
			r.monitor = new(serviceMonitor)
			decode(name, text, r.monitor)
		case "monitoring.coreos.com/v1/PrometheusRule":
			r.rule = new(prometheusRule)
			decode(name, text, r.rule)
		default:
			t.Errorf("%s makes a %s %s, which nobody looks at", name, kind.APIVersion, kind.Kind)
		}
	}
	r.name = r.deployment.Name
	return r
}

// matches tells whether a selector chooses labels.
func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

// environ is what a container's process is given; files of secrets are made.
func environ(t *testing.T, r *release, c corev1.Container) []string {
	t.Helper()
	dir := t.TempDir()
	var all []string
	for _, from := range c.EnvFrom {
		cm := r.configMaps[from.ConfigMapRef.Name]
		if cm == nil {
			t.Fatalf("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
		for k, v := range cm.Data {
			all = append(all, k+"="+v)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			e.Value = "from-a-secret"
		}
		all = append(all, e.Name+"="+e.Value)
	}
	for i, kv := range all {
		name, path, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(path, "/etc/outbox-relay/") {
			continue
		}
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return strings.HasPrefix(path, m.MountPath+"/") })
		if !mounted {
			t.Errorf("%s is %s, and nothing is mounted there", name, path)
		}
		value := "s3cret"
		if strings.HasSuffix(name, "_URL_FILE") {
			value = "postgres://outbox_relay:s3cret@db:5432/shop"
		}
		switch cert, key := pair(t); {
		case strings.HasSuffix(name, "_TLS_KEY_FILE"):
			value = string(key)
		case strings.Contains(name, "_TLS_"):
			value = string(cert)
		}
		file := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		all[i] = name + "=" + file
	}
	return all
}

func podOf(t *testing.T, who string, spec corev1.PodSpec) {
	t.Helper()
	sec := spec.SecurityContext
	if sec == nil || sec.RunAsNonRoot == nil || !*sec.RunAsNonRoot || sec.SeccompProfile == nil || sec.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: the pod may run as root, or without seccomp", who)
	}
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Errorf("%s: the pod has a token for Kubernetes", who)
	}
	if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		t.Errorf("%s: services become variables", who)
	}
	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		t.Errorf("%s: the pod is on its host", who)
	}
	mounts := map[string]bool{}
	for _, v := range spec.Volumes {
		mounts[v.Name] = true
	}
	for _, c := range spec.Containers {
		s := c.SecurityContext
		if s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !*s.RunAsNonRoot || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" || len(s.Capabilities.Add) > 0 || s.Privileged != nil {
			t.Errorf("%s: container %s may do more than it needs: %+v", who, c.Name, s)
		}
		for _, m := range c.VolumeMounts {
			if !mounts[m.Name] {
				t.Errorf("%s mounts %s, which is no volume", who, m.Name)
			}
			delete(mounts, m.Name)
		}
		if _, ok := c.Resources.Limits[corev1.ResourceMemory]; !ok {
			t.Errorf("%s: no limit of memory", who)
		}
		if status, _, errs := relay(t, nil, append(slices.Clone(c.Args), "--help")...); status != 0 {
			t.Errorf("%s runs %q, which is no command: %s", who, c.Args, errs)
		}
	}
	for name := range mounts {
		t.Errorf("%s has a volume %s for nobody", who, name)
	}
}

func TestChart(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata/values")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			t.Parallel()
			r := install(t, valuesFile(t, f.Name()))
			pod := r.deployment.Spec.Template
			main := pod.Spec.Containers[0]
			podOf(t, "relay", pod.Spec)
			podOf(t, "doctor", r.doctor.Spec)
			judge(t, "relay", environ(t, r, main))
			judge(t, "doctor", environ(t, r, r.doctor.Spec.Containers[0]))

			labels := pod.Labels
			if !matches(r.deployment.Spec.Selector.MatchLabels, labels) || !matches(r.service.Spec.Selector, labels) {
				t.Errorf("Deployment or Service does not find its pods: %v", labels)
			}
			if len(r.deployment.Spec.Selector.MatchLabels) != 2 {
				t.Error("a selector cannot be changed later: only name and instance have a place in it")
			}
			if matches(r.service.Spec.Selector, r.doctor.Labels) {
				t.Error("the pod of helm test gets the relay's traffic")
			}
			port := main.Ports[0]
			if port.ContainerPort != 8080 || r.service.Spec.Ports[0].TargetPort.StrVal != port.Name {
				t.Errorf("port %+v, Service %+v", port, r.service.Spec.Ports)
			}
			if r.configMaps[r.name].Data["HEALTH_ADDR"] != ":8080" {
				t.Error("the relay listens elsewhere than where it is probed")
			}
			for path, probe := range map[string]*corev1.Probe{"/startupz": main.StartupProbe, "/livez": main.LivenessProbe, "/readyz": main.ReadinessProbe} {
				if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != port.Name {
					t.Errorf("the probe of %s is %+v", path, probe)
				}
			}
			for _, cm := range r.configMaps {
				for k, v := range cm.Data {
					if strings.Contains(v, "s3cret") || k == "DATABASE_URL" {
						t.Errorf("a secret in ConfigMap %s: %s", cm.Name, k)
					}
				}
			}
			for _, e := range main.Env {
				if strings.HasPrefix(e.Name, "OUTBOX_ADMIN_URL") {
					t.Error("the relay is given the administrator's credentials")
				}
			}
			for _, v := range pod.Spec.Volumes {
				if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440) {
					t.Errorf("everybody in the pod may read %s", v.Name)
				}
			}
			for _, m := range r.all {
				if m.Namespace != "shop" || !strings.HasPrefix(m.Name, r.name) && m.Labels["app.kubernetes.io/instance"] != "orders" {
					t.Errorf("%s/%s is not the release's", m.Namespace, m.Name)
				}
				if m.Labels["app.kubernetes.io/managed-by"] != "Helm" || m.Labels["app.kubernetes.io/instance"] != "orders" {
					t.Errorf("labels of %s: %v", m.Name, m.Labels)
				}
			}
			if strategy := r.deployment.Spec.Strategy.RollingUpdate; strategy.MaxUnavailable.IntValue() != 0 || strategy.MaxSurge.IntValue() != 1 {
				t.Errorf("an upgrade leaves nobody who stands by: %+v", strategy)
			}
			for _, want := range []string{"helm test orders", "kubectl get --raw", "kubectl port-forward"} {
				if !strings.Contains(r.notes, want) {
					t.Errorf("the notes say nothing of %s:\n%s", want, r.notes)
				}
			}
		})
	}
}

func TestChartWithEverything(t *testing.T) {
	t.Parallel()
	r := install(t, valuesFile(t, "everything.yaml"))
	pod := r.deployment.Spec.Template
	if image := pod.Spec.Containers[0].Image; !strings.HasPrefix(image, "registry.example/outbox-relay@sha256:") {
		t.Errorf("image %s", image)
	}
	if got := r.configMaps[r.name].Data["OUTBOX_BATCH_MAX_BYTES"]; got != "33554432" {
		t.Errorf("a large number became %s", got)
	}
	if *r.deployment.Spec.Replicas != 3 || *pod.Spec.TerminationGracePeriodSeconds != 45 || len(pod.Spec.TopologySpreadConstraints) != 2 {
		t.Errorf("%+v", r.deployment.Spec)
	}
	for _, c := range pod.Spec.TopologySpreadConstraints[:1] {
		if !matches(c.LabelSelector.MatchLabels, pod.Labels) {
			t.Error("pods are spread by labels that they do not have")
		}
	}
	if r.budget == nil || !matches(r.budget.Spec.Selector.MatchLabels, pod.Labels) {
		t.Error("the budget counts no pod")
	}
	if r.policy == nil || !matches(r.policy.Spec.PodSelector.MatchLabels, pod.Labels) || len(r.policy.Spec.PolicyTypes) != 2 {
		t.Errorf("the policy is for nobody: %+v", r.policy)
	}
	if r.monitor == nil || !matches(r.monitor.Spec.Selector.MatchLabels, r.service.Labels) || r.monitor.Spec.Endpoints[0].Port != r.service.Spec.Ports[0].Name || r.monitor.Spec.Endpoints[0].Path != "/metrics" {
		t.Errorf("nothing is scraped: %+v", r.monitor)
	}
	if r.job == nil || r.job.Annotations["helm.sh/hook"] != "pre-install,pre-upgrade" {
		t.Fatal("nothing makes the slot before the relay starts")
	}
	job := r.job.Spec.Template
	podOf(t, "init", job.Spec)
	env := environ(t, r, job.Spec.Containers[0])
	judge(t, "init", env)
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "OUTBOX_ADMIN_URL_FILE=") }) {
		t.Error("init has not the administrator's credentials")
	}
	if len(job.Spec.Containers[0].EnvFrom) > 0 || job.Spec.ServiceAccountName != "" {
		t.Error("before an installation there is neither ConfigMap nor ServiceAccount")
	}
	if matches(r.service.Spec.Selector, job.Labels) || matches(r.budget.Spec.Selector.MatchLabels, job.Labels) {
		t.Error("the pod of init is taken for a relay")
	}
	// Rules and dashboard are the very ones that are tested where they are made.
	var rules ruleFile
	if err := yaml.UnmarshalStrict([]byte(text(t, "deploy/prometheus/outbox-relay.rules.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	if len(rules.Groups) == 0 || len(r.rule.Spec.Groups) != len(rules.Groups) {
		t.Errorf("%d groups of rules, want %d", len(r.rule.Spec.Groups), len(rules.Groups))
	}
	for i, g := range rules.Groups {
		for j, rule := range g.Rules {
			if got := r.rule.Spec.Groups[i].Rules[j]; got.Expr != rule.Expr || got.Annotations["summary"] != rule.Annotations["summary"] {
				t.Errorf("the chart has another %s%s", rule.Alert, rule.Record)
			}
		}
	}
	dash := r.configMaps[r.name+"-dashboards"]
	if dash == nil || dash.Labels["grafana_dashboard"] != "1" {
		t.Fatal("no dashboard that Grafana would find")
	}
	for name, got := range dash.Data {
		if strings.TrimSpace(got) != strings.TrimSpace(text(t, "deploy/grafana/"+name)) {
			t.Errorf("the chart has another %s than deploy/grafana: make docs", name)
		}
	}
}

// What can be left out is left out unless it is asked for: the custom resources may not
// be known to the cluster.
func TestChartMinimal(t *testing.T) {
	t.Parallel()
	r := install(t, valuesFile(t, "minimal.yaml"))
	if r.monitor != nil || r.rule != nil || r.policy != nil || r.job != nil || len(r.configMaps) != 1 {
		t.Errorf("%+v", r.all)
	}
	if r.budget == nil || r.account == nil || *r.deployment.Spec.Replicas != 2 {
		t.Errorf("%+v", r.all)
	}
	sec := r.deployment.Spec.Template.Spec.SecurityContext
	if *sec.RunAsUser != 65532 || *sec.FSGroup != 65532 {
		t.Errorf("user %d, group of files %d", *sec.RunAsUser, *sec.FSGroup)
	}
	shift := install(t, valuesFile(t, "openshift.yaml")).deployment.Spec.Template.Spec.SecurityContext
	if shift.RunAsUser != nil || shift.FSGroup != nil {
		t.Errorf("the platform is not let choose: %+v", shift)
	}
}

// Other settings make other pods, and the same settings do not.
func TestChartChecksum(t *testing.T) {
	t.Parallel()
	sum := func(text string) string {
		return install(t, values(t, text)).deployment.Spec.Template.Annotations["checksum/config"]
	}
	base := "existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:1'}\n"
	if sum(base) == "" || sum(base) != sum(base+"replicaCount: 5\n") {
		t.Error("more replicas restart the others")
	}
	if sum(base) == sum("existingSecret: s\nconfig: {KAFKA_BROKERS: 'b:1'}\n") {
		t.Error("pods keep the old brokers")
	}
}

func TestChartRefuses(t *testing.T) {
	t.Parallel()
	good := "existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092'}\n"
	for name, c := range map[string]struct{ values, says string }{
		"no way to Postgres":    {"config: {KAFKA_BROKERS: 'a:9092'}\n", "existingSecret is missing: there is no way to Postgres."},
		"no brokers":            {"existingSecret: s\n", "config.KAFKA_BROKERS is missing."},
		"a misspelt setting":    {"existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092', OUTBOX_SLTO: x}\n", "OUTBOX_SLTO"},
		"a misspelt value":      {good + "replicas: 3\n", "replicas"},
		"a misspelt value deep": {good + "image: {repo: x}\n", "repo"},
		"a secret in config":    {"existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092', KAFKA_SASL_PASSWORD: x}\n", "config.KAFKA_SASL_PASSWORD is a secret"},
		"a URL in config":       {"config: {KAFKA_BROKERS: 'a:9092', DATABASE_URL: x}\n", "config.DATABASE_URL is a secret"},
		"an address of its own": {"existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092', HEALTH_ADDR: ':9'}\n", "config.HEALTH_ADDR is the chart's"},
		"a setting of a kind":   {"existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092', LOG_LEVEL: loud}\n", "LOG_LEVEL"},
		"a list as a setting":   {"existingSecret: s\nconfig: {KAFKA_BROKERS: [a, b]}\n", "KAFKA_BROKERS"},
		"no replica":            {good + "replicaCount: 0\n", "replicaCount"},
		"root":                  {good + "runAsUser: 0\n", "runAsUser"},
		"a digest that is none": {good + "image: {digest: latest}\n", "digest"},
		"an unknown secret":     {good + "secretKeys: {KAFKA_PASSWORD: x}\n", "KAFKA_PASSWORD"},
		"a secret twice":        {"existingSecret: s\nconfig: {KAFKA_BROKERS: 'a:9092', DATABASE_URL_FILE: /x}\nsecretKeys: {}\nextraEnv: [{value: x}]\n", "name"},
	} {
		_, err := render(t, values(t, c.values))
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := render(t, values(t, good)); err != nil {
		t.Errorf("what is sound is refused: %v", err)
	}
}

// What the chart has copies of are those of the repository: Helm reads no file outside
// of a chart.
func TestChartFiles(t *testing.T) {
	t.Parallel()
	want := []string{"deploy/prometheus/outbox-relay.rules.yml"}
	dashboards, err := filepath.Glob(filepath.Join(root, "deploy/grafana/*.json"))
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, path := range dashboards {
		want = append(want, "deploy/grafana/"+filepath.Base(path))
	}
	for _, there := range want {
		if text(t, "deploy/helm/outbox-relay/files/"+filepath.Base(there)) != text(t, there) {
			t.Errorf("the chart has another %s: make docs", there)
		}
	}
	copies, err := os.ReadDir(filepath.Join(chartDir, "files"))
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) != len(want) {
		t.Errorf("the chart has %d files for %d", len(copies), len(want))
	}
}
