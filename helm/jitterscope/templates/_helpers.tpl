{{/* Names and labels that the chart's objects share. */}}
{{- define "jitterscope.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "jitterscope.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "jitterscope.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "jitterscope.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "jitterscope.selectorLabels" -}}
app.kubernetes.io/name: {{ include "jitterscope.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "jitterscope.labels" -}}
{{ include "jitterscope.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "jitterscope.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "jitterscope.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What the probes need; see the table of privileges in the README. */}}
{{- define "jitterscope.capabilities" -}}
{{- $needed := list "BPF" "PERFMON" "NET_ADMIN" "SYS_PTRACE" "SYSLOG" -}}
{{- if .Values.namespacesWithoutProcesses -}}
{{- $needed = append $needed "SYS_ADMIN" -}}
{{- end -}}
{{- toYaml (concat $needed .Values.extraCapabilities | uniq) -}}
{{- end -}}
