"""da_wa: which normalisation transfers best across domains?"""
