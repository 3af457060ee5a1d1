"""`report.html`: everything a run has found on one page that needs neither network nor server."""
