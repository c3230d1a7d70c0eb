"""The report of a decision: question, data, arms, numbers, examples, costs, verdict, lineage."""
