{{/* What the values contradict each other in, and the schema cannot say clearly. */}}
{{- define "hfi.check" -}}
{{- if and .Values.etcd.endpoints .Values.etcdCluster.enabled -}}
{{- fail "etcd.endpoints names an etcd cluster, and etcdCluster.enabled installs another: use one of them" -}}
{{- end -}}
{{- if and .Values.etcd.secret.name (not .Values.etcd.endpoints) -}}
{{- fail "etcd.secret.name holds the credentials for etcd.endpoints, which is empty" -}}
{{- end -}}
{{- end -}}

{{/* Name of an image, from its repository, digest and tag: dict "image" … "tag" (the tag where the image has none). */}}
{{- define "hfi.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag | required "etcdCluster.image needs a tag or a digest" }}
{{- end -}}
{{- end -}}

{{/* The daemon's settings for its ConfigMap, as JSON. */}}
{{- define "hfi.settings" -}}
{{- $values := .Values -}}
{{- $settings := dict "HFID_REPO" .Values.git.url "HFID_BRANCH" .Values.git.branch "HFID_PATH" .Values.git.path "HFID_DRIFT" .Values.drift -}}
{{- with .Values.git.interval }}{{ $_ := set $settings "HFID_INTERVAL" . }}{{ end -}}
{{- with .Values.git.timeout }}{{ $_ := set $settings "HFID_GIT_TIMEOUT" . }}{{ end -}}
{{- with .Values.git.username }}{{ $_ := set $settings "HFID_GIT_USERNAME" . }}{{ end -}}
{{- with .Values.logLevel }}{{ $_ := set $settings "HFID_LOG_LEVEL" . }}{{ end -}}
{{- with .Values.wasmPlugins.namespaces }}{{ $_ := set $settings "HFID_KUBE_NAMESPACES" (join "," .) }}{{ end -}}
{{- with .Values.etcd.prefix }}{{ $_ := set $settings "HFID_ETCD_PREFIX" . }}{{ end -}}
{{- with .Values.etcd.username }}{{ $_ := set $settings "HFID_ETCD_USERNAME" . }}{{ end -}}

{{- /* By default the daemon names the Service in the namespace boifi. */ -}}
{{- if ne .Release.Namespace "boifi" }}{{ $_ := set $settings "HFID_KUBE_CONTROL_PLANE" (printf "http://hfi-control-plane.%s:8080" .Release.Namespace) }}{{ end -}}

{{- $files := dict "token" "GIT_TOKEN" "password" "GIT_PASSWORD" "sshKey" "GIT_SSH_KEY" "knownHosts" "GIT_KNOWN_HOSTS" "ca" "GIT_CA" "webhook" "WEBHOOK_SECRET" -}}
{{- range $kind, $setting := $files -}}
{{- with index $values.git.secret.keys $kind }}{{ $_ := set $settings (printf "HFID_%s_FILE" $setting) (printf "/etc/hfid/git/%s" .) }}{{ end -}}
{{- end -}}
{{- if .Values.etcd.secret.name -}}
{{- range $kind, $setting := dict "ca" "CA" "cert" "CERT" "key" "KEY" "password" "PASSWORD" -}}
{{- with index $values.etcd.secret.keys $kind }}{{ $_ := set $settings (printf "HFID_ETCD_%s_FILE" $setting) (printf "/etc/hfid/etcd/%s" .) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Replicas share one etcd. Without this setting each would run its own. */ -}}
{{- $endpoints := .Values.etcd.endpoints | default (list "http://hfi-etcd:2379") -}}
{{- if .Values.etcdCluster.enabled -}}
{{- $endpoints = list "http://hfi-etcd-0.hfi-etcd:2379" "http://hfi-etcd-1.hfi-etcd:2379" "http://hfi-etcd-2.hfi-etcd:2379" -}}
{{- end -}}
{{- $_ := set $settings "HFID_ETCD_ENDPOINTS" (join "," $endpoints) -}}

{{- range $name, $value := .Values.settings -}}
{{- if or (hasKey $settings $name) (has $name (list "HFID_REPLICA_ID" "HFID_ADVERTISE" "HFID_LISTEN" "HFID_DATA_DIR")) -}}
{{- fail (printf "settings.%s is set by another value of the chart" $name) -}}
{{- end -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{/*
Name of the ConfigMap, which ends in a hash of its settings as kustomize makes it: a change of a setting rolls the
Deployment, and an installation by kustomize has the same name.
*/}}
{{- define "hfi.configMap" -}}
{{- $text := dict "kind" "ConfigMap" "name" "" "data" (include "hfi.settings" . | fromJson) | toJson -}}
{{- $hash := sha256sum $text | trunc 10 | replace "0" "g" | replace "1" "h" | replace "3" "k" | replace "a" "m" | replace "e" "t" -}}
hfi-control-plane-{{ $hash }}
{{- end -}}

{{/* TCP ports of etcd.endpoints, each once, separated by spaces. */}}
{{- define "hfi.etcdPorts" -}}
{{- $ports := list -}}
{{- range .Values.etcd.endpoints }}{{ $ports = append $ports (regexFind "[0-9]+$" .) }}{{ end -}}
{{- $ports | uniq | sortAlpha | join " " -}}
{{- end -}}

{{/* Egress to DNS, wherever the cluster has it. */}}
{{- define "hfi.dnsRule" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end -}}

{{/* Where pods may run, from the values of that name. */}}
{{- define "hfi.placement" -}}
{{- range $name := list "topologySpreadConstraints" "nodeSelector" "tolerations" "affinity" -}}
{{- with index $.placement $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}
{{- end -}}
