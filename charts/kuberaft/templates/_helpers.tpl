{{- define "kuberaft.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* Cut to 52 characters: a StatefulSet's pods and their controller revision hash need the rest of 63. */}}
{{- define "kuberaft.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "kuberaft.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "kuberaft.headless" -}}
{{- printf "%s-peers" (include "kuberaft.fullname" .) }}
{{- end }}

{{- define "kuberaft.latch" -}}
{{- printf "%s-cluster" (include "kuberaft.fullname" .) }}
{{- end }}

{{/* A CronJob's name has at most 52 characters. */}}
{{- define "kuberaft.backup" -}}
{{- printf "%s-backup" (include "kuberaft.fullname" . | trunc 45 | trimSuffix "-") }}
{{- end }}

{{/* Short names of the Services and pods, which no other rule of the client port allows, and those of the values. */}}
{{- define "kuberaft.allowedHosts" -}}
{{- $services := list (include "kuberaft.fullname" .) (include "kuberaft.headless" .) }}
{{- if .Values.leaderService.enabled }}
{{- $services = append $services (printf "%s-leader" (include "kuberaft.fullname" .)) }}
{{- end }}
{{- $hosts := list }}
{{- range $service := $services }}
{{- $hosts = append $hosts (printf "%s.%s" $service $.Release.Namespace) }}
{{- end }}
{{- $pods := printf "*.%s" (include "kuberaft.headless" .) }}
{{- concat $hosts (list $pods (printf "%s.%s" $pods .Release.Namespace)) .Values.allowedHosts | join "," }}
{{- end }}

{{- define "kuberaft.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "kuberaft.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "kuberaft.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{/* What selects this release's pods; never changes. */}}
{{- define "kuberaft.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kuberaft.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: member
{{- end }}

{{/* Of the pods of jobs and tests; the NetworkPolicy lets them in by these. */}}
{{- define "kuberaft.jobLabels" -}}
app.kubernetes.io/name: {{ include "kuberaft.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kuberaft.podSecurityWithoutVolumes" -}}
{{- omit .Values.podSecurityContext "fsGroup" "fsGroupChangePolicy" | toYaml }}
{{- end }}

{{- define "kuberaft.labels" -}}
app.kubernetes.io/name: {{ include "kuberaft.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/*
The number of replicas: the live one while the value is what it was when it was last changed here, so that an upgrade
does not undo `kubectl scale`; else the value.
*/}}
{{- define "kuberaft.replicas" -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "kuberaft.fullname" .) }}
{{- $noted := dig "metadata" "annotations" "kuberaft.io/chart-replica-count" "" (default dict $live) }}
{{- if and $live (eq (toString $noted) (toString .Values.replicaCount)) }}
{{- $live.spec.replicas }}
{{- else }}
{{- .Values.replicaCount }}
{{- end }}
{{- end }}
