"""Judgement by people: two arms' answers side by side without their names, rated in a browser, summed up with care."""
