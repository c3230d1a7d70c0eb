"""Answer quality in production: is an adapter's live behaviour still that of its training data, and is retraining due?

sampler.py measures a sample of live answers, drift.py compares them with the training baseline, feedback.py stores
ratings of clients, review.py derives from both whether to train again, service.py runs all of it.
"""
