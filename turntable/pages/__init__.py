"""Self-contained HTML pages: one layout, one stylesheet, charts as inline SVG. Jinja2 is imported by the first page."""
