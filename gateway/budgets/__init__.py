"""Budgets: money that keys and tenants may spend per day, per month or in all, reserved before a request runs."""

from gateway.budgets.bank import Bank as Bank
from gateway.budgets.budgets import Budgets as Budgets
from gateway.budgets.budgets import Reservation as Reservation
from gateway.budgets.standing import Standing as Standing
from gateway.budgets.standing import Standings as Standings
