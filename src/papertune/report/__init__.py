"""``report.html``: one page that tells the whole run, from the files that the steps left."""
