"""
The OpenAPI 3.1 document of the three endpoints: this project's own, for the vendor publishes none.

What the models say is read from them; paths, parameters, refusals and keys are written here.
"""

from crowdtwist_async.emulator.openapi.document import document, rendered

__all__ = ["document", "rendered"]
