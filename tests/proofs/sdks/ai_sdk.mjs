// The same with the AI SDK, as OpenCode uses it.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { streamText } from 'ai'

const provider = createOpenAICompatible({
  name: 'zuebee',
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
})
for (const model of process.argv.slice(2)) {
  const seen = { model, text: '', usage: [], error: null }
  const onError = ({ error }) => { seen.error = error.message }
  const stream = streamText({ model: provider(model), prompt: 'Hello', maxRetries: 0, onError })
  for await (const part of stream.textStream) seen.text += part
  try {
    const { totalTokens } = await stream.usage
    if (totalTokens) seen.usage.push(totalTokens)
  } catch {
    // an answer that failed has none
  }
  console.log(JSON.stringify(seen))
}
