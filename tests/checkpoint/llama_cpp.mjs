// Asks llama.cpp: node llama_cpp.mjs INSTALLED MODEL, where INSTALLED is a folder in which
// `npm install node-llama-cpp` was run. Reads {text, prompt, tokens} as JSON, and writes {ids,
// greedy, logProbabilities}: ids of the text; the tokens that follow the prompt's ids, the most
// likely each time; and the logarithms of what is given to each id after each token of the prompt.
import path from "node:path";
import {text as readAll} from "node:stream/consumers";
import {pathToFileURL} from "node:url";

const [installed, modelPath] = process.argv.slice(2);
const entry = path.join(installed, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama} = await import(pathToFileURL(path.resolve(entry)));
const {text, prompt, tokens} = JSON.parse(await readAll(process.stdin));

const WHOLE = {temperature: 1, topK: 0, topP: 1, minP: 0};
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({
    contextSize: prompt.length + tokens + 1, threads: 1, flashAttention: false,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32",
});
const ids = model.tokenize(text);
const sequence = context.getSequence();

const seen = await sequence.controlledEvaluate(
    prompt.map((id) => [id, {generateNext: {probabilities: true, options: WHOLE}}])
);
const logProbabilities = seen.map(({next}) => {
    const row = new Array(next.probabilities.size);
    for (const [id, probability] of next.probabilities) row[id] = Math.log(probability);
    return row;
});

await sequence.clearHistory();
const greedy = [];
for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    greedy.push(token);
    if (greedy.length >= tokens) break;
}
process.stdout.write(JSON.stringify({ids, greedy, logProbabilities}), () => process.exit(0));
