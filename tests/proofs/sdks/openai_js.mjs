// Streams each model named on the command line with the openai package; prints one line of JSON for each.
import OpenAI from 'openai'

const client = new OpenAI({ maxRetries: 0 })
for (const model of process.argv.slice(2)) {
  const seen = { model, text: '', usage: [], error: null }
  try {
    const messages = [{ role: 'user', content: 'Hello' }]
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
      seen.text += chunk.choices[0]?.delta?.content ?? ''
      if (chunk.usage) seen.usage.push(chunk.usage.total_tokens)
    }
  } catch (error) {
    seen.error = error.message
  }
  console.log(JSON.stringify(seen))
}
