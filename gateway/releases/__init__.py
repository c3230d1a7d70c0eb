"""Gates: what a version must show before it goes live: a verdict that counts, and a second person's approval.

What happens to the traffic of one name besides being answered: canaries watched, requests mirrored and compared.
"""
