"""What every process of a benchmark runs: ``python -m bench.child MODULE:FUNCTION ARGUMENTS``.

The arguments are a JSON object; what the function returns is printed as JSON.
"""

import importlib
import json
import sys


def main() -> None:
    """Call the function that the command line names."""
    name, arguments = sys.argv[1:]
    module, function = name.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
