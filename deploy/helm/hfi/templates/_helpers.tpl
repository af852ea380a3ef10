{{/* Refuses values that contradict each other. */}}
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
{{- $settings := dict
  "HFID_REPO" .Values.git.url
  "HFID_BRANCH" .Values.git.branch
  "HFID_PATH" .Values.git.path
  "HFID_DRIFT" .Values.drift
-}}
{{- $optional := dict
  "HFID_INTERVAL" .Values.git.interval
  "HFID_GIT_TIMEOUT" .Values.git.timeout
  "HFID_GIT_USERNAME" .Values.git.username
  "HFID_LOG_LEVEL" .Values.logLevel
  "HFID_LIMITS" (ternary "/etc/hfid/limits/limits.cue" "" (ne .Values.limits ""))
  "HFID_KUBE_NAMESPACES" (join "," .Values.wasmPlugins.namespaces)
  "HFID_KUBE_LINGER" .Values.wasmPlugins.linger
  "HFID_KUBE_DELIVERY" .Values.wasmPlugins.delivery
  "HFID_ETCD_PREFIX" .Values.etcd.prefix
  "HFID_ETCD_USERNAME" .Values.etcd.username
-}}
{{- range $name, $value := $optional }}{{ if $value }}{{ $_ := set $settings $name $value }}{{ end }}{{ end -}}

{{- $keys := .Values.git.secret.keys -}}
{{- $files := dict
  "HFID_GIT_TOKEN_FILE" $keys.token
  "HFID_GIT_PASSWORD_FILE" $keys.password
  "HFID_GIT_SSH_KEY_FILE" $keys.sshKey
  "HFID_GIT_SSH_PASSPHRASE_FILE" $keys.sshPassphrase
  "HFID_GIT_KNOWN_HOSTS_FILE" $keys.knownHosts
  "HFID_GIT_CA_FILE" $keys.ca
  "HFID_GIT_CLIENT_CERT_FILE" $keys.clientCert
  "HFID_GIT_CLIENT_KEY_FILE" $keys.clientKey
  "HFID_WEBHOOK_SECRET_FILE" $keys.webhook
-}}
{{- range $name, $key := $files }}{{ if $key }}{{ $_ := set $settings $name (printf "/etc/hfid/git/%s" $key) }}{{ end }}{{ end -}}

{{- if .Values.etcd.secret.name -}}
{{- $keys := .Values.etcd.secret.keys -}}
{{- $files := dict
  "HFID_ETCD_CA_FILE" $keys.ca
  "HFID_ETCD_CERT_FILE" $keys.cert
  "HFID_ETCD_KEY_FILE" $keys.key
  "HFID_ETCD_PASSWORD_FILE" $keys.password
-}}
{{- range $name, $key := $files }}{{ if $key }}{{ $_ := set $settings $name (printf "/etc/hfid/etcd/%s" $key) }}{{ end }}{{ end -}}
{{- end -}}

{{- /* By default the daemon names the Service in the namespace boifi. */ -}}
{{- if and (ne .Release.Namespace "boifi") (not (hasKey .Values.settings "HFID_KUBE_CONTROL_PLANE")) -}}
{{- $_ := set $settings "HFID_KUBE_CONTROL_PLANE" (printf "http://hfi-control-plane.%s:8080" .Release.Namespace) -}}
{{- end -}}

{{- /* Replicas share one etcd. Without this setting each would run its own. */ -}}
{{- $endpoints := .Values.etcd.endpoints | default (list "http://hfi-etcd:2379") -}}
{{- if .Values.etcdCluster.enabled -}}
{{- $endpoints = list "http://hfi-etcd-0.hfi-etcd:2379" "http://hfi-etcd-1.hfi-etcd:2379" "http://hfi-etcd-2.hfi-etcd:2379" -}}
{{- end -}}
{{- $_ := set $settings "HFID_ETCD_ENDPOINTS" (join "," $endpoints) -}}

{{- $_ := set $settings "HFID_STATE_KEY_FILE" (ternary (printf "/etc/hfid/state-key/%s" .Values.stateKey.key) "none" (ne .Values.stateKey.secret "")) -}}

{{- range $name, $value := .Values.settings -}}
{{- $ofThePod := list "HFID_REPLICA_ID" "HFID_ADVERTISE" "HFID_LISTEN" "HFID_DATA_DIR" -}}
{{- if or (hasKey $settings $name) (has $name $ofThePod) -}}
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
{{- /* kustomize leaves the name empty in what it hashes. */ -}}
{{- $text := dict "kind" "ConfigMap" "name" "" "data" (include "hfi.settings" . | fromJson) | toJson -}}
{{- $hash := sha256sum $text | trunc 10 -}}
{{- $hash = $hash | replace "0" "g" | replace "1" "h" | replace "3" "k" | replace "a" "m" | replace "e" "t" -}}
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
