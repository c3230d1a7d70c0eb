"""The report of a decision: verdict, evidence, costs, data and lineage, as HTML and as Markdown."""
