"""Prints a YAML or HCL file as JSON."""

import json
import sys

path = sys.argv[1]
with open(path, encoding="utf-8") as file:
    if path.endswith(".hcl"):
        import hcl2

        parsed = hcl2.load(file)
    else:
        import yaml

        parsed = yaml.safe_load(file)
json.dump(parsed, sys.stdout)
