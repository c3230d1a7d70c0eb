"""Answer quality in production: a sample of live answers (sampler.py) against the training baseline (drift.py), feedback
of clients (feedback.py), and whether to train an adapter again (review.py); service.py runs all of it.
"""
