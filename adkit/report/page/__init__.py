"""``report.html``: what a run found as one page that needs nothing else, made of what the run's folder has."""
