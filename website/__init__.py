"""How the documentation site is made from ``docs/``: links, pictures, and the checks on the built pages."""
