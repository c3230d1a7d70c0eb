"""Budgets: money that keys and tenants may spend per day, per month or in all, reserved before a request runs.

Limits of keys and tenants: requests and tokens per minute, requests at a time, tokens per request.
"""

from gateway.quota.budget_leases import BudgetLeaseStore as BudgetLeaseStore
from gateway.quota.budget_status import BudgetStatus as BudgetStatus
from gateway.quota.budget_status import BudgetStatuses as BudgetStatuses
from gateway.quota.budgets import Budgets as Budgets
from gateway.quota.budgets import Reservation as Reservation
from gateway.quota.rate_limits import RateLimiter as RateLimiter
from gateway.quota.rate_limits import RateLimitGrant as RateLimitGrant
from gateway.quota.request_size import RequestSize as RequestSize
from gateway.quota.request_size import measure_request as measure_request
