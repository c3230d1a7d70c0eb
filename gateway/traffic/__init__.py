"""What happens to the traffic of one name besides being answered: canaries watched, requests mirrored and compared."""
