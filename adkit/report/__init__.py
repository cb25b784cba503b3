"""What a run found: the models of ``report.json``, and tables for the terminal."""
