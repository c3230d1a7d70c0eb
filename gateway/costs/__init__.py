"""Costs: what the engines cost, which adapter, tenant and key caused it, and what other APIs would have charged.

One cost document is made in one pass through three values:

    CostQuery -> CostInputs     inputs.py: window, cost plan, evidence, prices, usage and engine runs, all read here
              -> CostContext    context.py: the bill (bill.py) and the figures per request; pure, exact integers
              -> CostDocument   report.py, from the sections in sections.py; document.py says what each field means

Pricing: plan.py (an engine's hour), prices/ and comparators.py (other APIs), request_price.py (one request).
Allocation: bill.py. Evidence: evidence.py, calibration.py. Volumes that pay: breakeven.py.
Presentation: terminal.py (tables, CSV), page.py (HTML), and the gauges in refresh.py.
"""
