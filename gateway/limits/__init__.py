"""Limits of keys and tenants: requests and tokens per minute, requests at a time, tokens per request."""

from gateway.limits.demand import Demand as Demand
from gateway.limits.demand import read_demand as read_demand
from gateway.limits.limiter import Limiter as Limiter
from gateway.limits.limiter import Take as Take
