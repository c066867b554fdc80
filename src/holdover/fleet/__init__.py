"""All hosts of a site at a glance: what their agents say, and the page that shows it.

`picture` puts the answers of the agents together and is pure. `survey` asks the agents. `dashboard` serves
the page to the operator's browser. Only `cli` may import this package.
"""
