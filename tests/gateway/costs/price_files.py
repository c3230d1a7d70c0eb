"""A price snapshot of one model."""

# What genai-prices publishes, cut down to one model.
SNAPSHOT = (
    '[{"id":"openai","name":"OpenAI","api_pattern":"https://api.openai.com","models":'
    '[{"id":"gpt-6-luna","match":{"equals":"gpt-6-luna"},"prices":{"input_mtok":0.2,"output_mtok":0.5}}]}]'
)
