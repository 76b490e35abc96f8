{{/* "true" where the client port speaks TLS. */}}
{{- define "kuberaft.tls.client" -}}
{{- if and .Values.tls.enabled .Values.tls.client.enabled }}true{{ end }}
{{- end }}

{{/*
How members know each other: auto (a shared secret), certManager, secret (certificates of one's own), or off. Where
tls.peer.mode is auto, certificates that the other values name for this port are used. YAML reads off as false.
*/}}
{{- define "kuberaft.tls.peerMode" -}}
{{- $tls := .Values.tls }}
{{- $mode := toString $tls.peer.mode | replace "false" "off" }}
{{- if ne $mode "auto" }}
{{- $mode }}
{{- else if eq (toString (dig "enabled" true $tls.peer)) "false" }}
{{- print "off" }}
{{- else if and $tls.enabled $tls.certManager.enabled }}
{{- print "certManager" }}
{{- else if or $tls.peer.secretName (and $tls.enabled $tls.secretName) }}
{{- print "secret" }}
{{- else }}
{{- print "auto" }}
{{- end }}
{{- end }}

{{/* "true" where members have certificates from a Secret. */}}
{{- define "kuberaft.tls.peer" -}}
{{- if has (include "kuberaft.tls.peerMode" .) (list "certManager" "secret") }}true{{ end }}
{{- end }}

{{/* The Secret that the members fill, with what they derive their certificates from. */}}
{{- define "kuberaft.peerSecret" -}}
{{- printf "%s-peer" (include "kuberaft.fullname" .) }}
{{- end }}

{{/* The Secrets with tls.crt, tls.key and ca.crt. */}}
{{- define "kuberaft.tls.clientSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- printf "%s-client-tls" (include "kuberaft.fullname" .) }}
{{- else }}
{{- required "tls.enabled needs tls.certManager.enabled, or tls.secretName or tls.client.secretName" (default .Values.tls.secretName .Values.tls.client.secretName) }}
{{- end }}
{{- end }}

{{- define "kuberaft.tls.peerSecret" -}}
{{- if eq (include "kuberaft.tls.peerMode" .) "certManager" }}
{{- printf "%s-peer-tls" (include "kuberaft.fullname" .) }}
{{- else }}
{{- required "tls.peer.mode=secret needs tls.peer.secretName or tls.secretName" (default .Values.tls.secretName .Values.tls.peer.secretName) }}
{{- end }}
{{- end }}

{{/* The name that the certificate of each member must have: cert-manager's issuer may sign for others, too. */}}
{{- define "kuberaft.tls.peerAllowedName" -}}
{{- if .Values.tls.peer.allowedName }}
{{- .Values.tls.peer.allowedName }}
{{- else if eq (include "kuberaft.tls.peerMode" .) "certManager" }}
{{- printf "%s.%s.svc" (include "kuberaft.headless" .) .Release.Namespace }}
{{- end }}
{{- end }}

{{/* Before the address of a client port. */}}
{{- define "kuberaft.scheme" -}}
{{- if include "kuberaft.tls.client" . }}https{{ else }}http{{ end }}
{{- end }}

{{/* What the client commands of kuberaft need in a pod: environment, mounts, volumes. Empty without TLS. */}}
{{- define "kuberaft.tls.clientEnv" -}}
{{- if include "kuberaft.tls.client" . }}
- name: KUBERAFT_TLS_CA
  value: /etc/kuberaft/tls/client/ca.crt
{{- if .Values.tls.client.requireCertificate }}
- name: KUBERAFT_TLS_CERT
  value: /etc/kuberaft/tls/client/tls.crt
- name: KUBERAFT_TLS_KEY
  value: /etc/kuberaft/tls/client/tls.key
{{- end }}
{{- end }}
{{- end }}

{{- define "kuberaft.tls.clientMounts" -}}
{{- if include "kuberaft.tls.client" . }}
- name: client-tls
  mountPath: /etc/kuberaft/tls/client
  readOnly: true
{{- end }}
{{- end }}

{{- define "kuberaft.tls.clientVolumes" -}}
{{- if include "kuberaft.tls.client" . }}
- name: client-tls
  secret:
    secretName: {{ include "kuberaft.tls.clientSecret" . }}
{{- end }}
{{- end }}

{{/* What a member needs. */}}
{{- define "kuberaft.tls.memberEnv" -}}
{{- $mode := include "kuberaft.tls.peerMode" . }}
{{- if eq $mode "auto" }}
- name: KUBERAFT_KUBE_PEER_SECRET
  value: {{ include "kuberaft.peerSecret" . }}
{{- else if eq $mode "off" }}
- name: KUBERAFT_INSECURE_PEERS
  value: "true"
{{- end }}
{{- if include "kuberaft.tls.peer" . }}
- name: KUBERAFT_PEER_TLS_CERT
  value: /etc/kuberaft/tls/peer/tls.crt
- name: KUBERAFT_PEER_TLS_KEY
  value: /etc/kuberaft/tls/peer/tls.key
- name: KUBERAFT_PEER_TLS_CA
  value: /etc/kuberaft/tls/peer/ca.crt
{{- with include "kuberaft.tls.peerAllowedName" . }}
- name: KUBERAFT_PEER_TLS_ALLOWED_NAME
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- if include "kuberaft.tls.client" . }}
- name: KUBERAFT_CLIENT_TLS_CERT
  value: /etc/kuberaft/tls/client/tls.crt
- name: KUBERAFT_CLIENT_TLS_KEY
  value: /etc/kuberaft/tls/client/tls.key
{{- if .Values.tls.client.requireCertificate }}
- name: KUBERAFT_CLIENT_TLS_CLIENT_CA
  value: /etc/kuberaft/tls/client/ca.crt
{{- end }}
# For `kubectl exec`: commands ask the member of the pod that they run in.
- name: KUBERAFT_ENDPOINTS
  value: "https://localhost:{{ .Values.ports.client }}"
{{ include "kuberaft.tls.clientEnv" . | trim }}
{{- end }}
{{- end }}

{{/* By what the release's jobs show that they administer the cluster: environment, mounts, volumes. */}}
{{- define "kuberaft.admin.env" -}}
{{- if eq (include "kuberaft.tls.peerMode" .) "auto" }}
- name: KUBERAFT_PEER_SECRET_FILE
  value: /etc/kuberaft/peer/secret
{{- end }}
{{- end }}

{{- define "kuberaft.admin.mounts" -}}
{{- if eq (include "kuberaft.tls.peerMode" .) "auto" }}
- name: peer-secret
  mountPath: /etc/kuberaft/peer
  readOnly: true
{{- end }}
{{- end }}

{{- define "kuberaft.admin.volumes" -}}
{{- if eq (include "kuberaft.tls.peerMode" .) "auto" }}
- name: peer-secret
  secret:
    secretName: {{ include "kuberaft.peerSecret" . }}
    defaultMode: 0440
{{- end }}
{{- end }}
