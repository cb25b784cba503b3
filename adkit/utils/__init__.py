"""Small helpers that know nothing of anomaly detection."""
