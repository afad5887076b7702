"""Who is told of a call: the log, OpenTelemetry, Prometheus, Helicone, the store of contents."""
