{{/* Names and labels. */}}
{{- define "outbox-relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "outbox-relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "outbox-relay.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "outbox-relay.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes in the life of a release: selectors are immutable. */}}
{{- define "outbox-relay.selector" -}}
app.kubernetes.io/name: {{ include "outbox-relay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outbox-relay.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "outbox-relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: outbox-relay
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "outbox-relay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "outbox-relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "outbox-relay.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A value as text. Numbers arrive as floating point, and 1048576 must not become 1.048576e+06. */}}
{{- define "outbox-relay.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ printf "%g" . }}{{ end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* The settings as the ConfigMap has them, and what cannot work. */}}
{{- define "outbox-relay.settings" -}}
{{- $root := . -}}
{{- $secrets := dict -}}
{{- range $name, $key := .Values.secretKeys }}{{ if $key }}{{ $_ := set $secrets $name $key }}{{ end }}{{ end -}}
{{- $given := dict -}}
{{- range .Values.extraEnv }}{{ $_ := set $given .name true }}{{ end -}}
{{- range $name, $value := .Values.config -}}
{{- if or (has $name (list "DATABASE_URL" "OUTBOX_ADMIN_URL" "PGPASSWORD")) (regexMatch "(PASSWORD|TOKEN|SECRET)$" $name) -}}
{{- fail (printf "\n\nconfig.%s is a secret, and a ConfigMap can be read by many.\n  fix: kubectl create secret generic outbox-relay --from-literal=%s=..., then existingSecret: outbox-relay and secretKeys.%s: %s\n" $name (lower $name | replace "_" "-") $name (lower $name | replace "_" "-")) -}}
{{- end -}}
{{- if eq $name "HEALTH_ADDR" -}}
{{- fail "\n\nconfig.HEALTH_ADDR is the chart's: probes and Service use port 8080 of the pod.\n  fix: leave it out; service.port is the port of the Service\n" -}}
{{- end -}}
{{- if and $root.Values.existingSecret (hasKey $secrets $name) -}}
{{- fail (printf "\n\nconfig.%s and secretKeys.%s are both set, and may differ.\n  fix: keep one\n" $name $name) -}}
{{- end -}}
{{- end -}}
{{- $enabled := ne (toString (get .Values.config "KAFKA_ENABLED")) "false" -}}
{{- if and $enabled (not (or (get .Values.config "KAFKA_BROKERS") (get .Values.config "KAFKA_BOOTSTRAP_SERVERS") (hasKey $given "KAFKA_BROKERS"))) -}}
{{- fail "\n\nconfig.KAFKA_BROKERS is missing.\n  fix: --set config.KAFKA_BROKERS=broker-1:9092\\,broker-2:9092\n" -}}
{{- end -}}
{{- if not (or (and .Values.existingSecret (hasKey $secrets "DATABASE_URL")) (get .Values.config "PGHOST") (get .Values.config "DATABASE_URL_FILE") (hasKey $given "DATABASE_URL") (hasKey $given "DATABASE_URL_FILE") (hasKey $given "PGHOST")) -}}
{{- fail "\n\nexistingSecret is missing: there is no way to Postgres.\n  fix: kubectl create secret generic outbox-relay --from-literal=database-url='postgres://outbox_relay:...@db:5432/shop'\n       then --set existingSecret=outbox-relay\n" -}}
{{- end -}}
HEALTH_ADDR: ":8080"
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ include "outbox-relay.text" $value | quote }}
{{- end }}
{{- if not (hasKey .Values.config "LOG_FORMAT") }}
LOG_FORMAT: json
{{- end }}
{{- if .Values.kafkaTLS.existingSecret }}
{{- with .Values.kafkaTLS.caKey }}
KAFKA_TLS_CA_FILE: /etc/outbox-relay/tls/{{ . }}
{{- end }}
{{- with .Values.kafkaTLS.certKey }}
KAFKA_TLS_CERT_FILE: /etc/outbox-relay/tls/{{ . }}
{{- end }}
{{- with .Values.kafkaTLS.keyKey }}
KAFKA_TLS_KEY_FILE: /etc/outbox-relay/tls/{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where the secrets are, as variables. The administrator's is for jobs. */}}
{{- define "outbox-relay.secretEnv" -}}
{{- $admin := .admin -}}
{{- if .root.Values.existingSecret -}}
{{- range $name, $key := .root.Values.secretKeys }}
{{- if and $key (or $admin (ne $name "OUTBOX_ADMIN_URL")) }}
- name: {{ $name }}_FILE
  value: /etc/outbox-relay/secrets/{{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outbox-relay.mounts" -}}
{{- if .Values.existingSecret }}
- name: secrets
  mountPath: /etc/outbox-relay/secrets
  readOnly: true
{{- end }}
{{- if .Values.kafkaTLS.existingSecret }}
- name: kafka-tls
  mountPath: /etc/outbox-relay/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outbox-relay.volumes" -}}
{{- $admin := .admin -}}
{{- with .root -}}
{{- if .Values.existingSecret }}
- name: secrets
  secret:
    secretName: {{ .Values.existingSecret }}
    defaultMode: 0440
    items:
      {{- range $name, $key := .Values.secretKeys }}
      {{- if and $key (or $admin (ne $name "OUTBOX_ADMIN_URL")) }}
      - key: {{ $key }}
        path: {{ $key }}
      {{- end }}
      {{- end }}
{{- end }}
{{- if .Values.kafkaTLS.existingSecret }}
- name: kafka-tls
  secret:
    secretName: {{ .Values.kafkaTLS.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "outbox-relay.podSecurity" -}}
runAsNonRoot: true
{{- with get .Values "runAsUser" }}
runAsUser: {{ include "outbox-relay.text" . }}
{{- end }}
{{- with get .Values "runAsGroup" }}
runAsGroup: {{ include "outbox-relay.text" . }}
{{- end }}
{{- with get .Values "fsGroup" }}
fsGroup: {{ include "outbox-relay.text" . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "outbox-relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A pod that runs one command and ends: for hooks. Its settings are its own, because
before an installation there is no ConfigMap yet. */}}
{{- define "outbox-relay.oncePod" -}}
{{- $root := .root -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "outbox-relay.podSecurity" $root | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "outbox-relay.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: {{ toJson .args }}
    env:
      {{- range $name, $value := include "outbox-relay.settings" $root | fromYaml }}
      - name: {{ $name }}
        value: {{ $value | quote }}
      {{- end }}
      {{- include "outbox-relay.secretEnv" (dict "root" $root "admin" .admin) | nindent 6 }}
    securityContext:
      {{- include "outbox-relay.containerSecurity" $root | nindent 6 }}
    resources:
      {{- toYaml $root.Values.resources | nindent 6 }}
    {{- with include "outbox-relay.mounts" $root }}
    volumeMounts:
      {{- . | nindent 6 }}
    {{- end }}
{{- with include "outbox-relay.volumes" (dict "root" $root "admin" .admin) }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
