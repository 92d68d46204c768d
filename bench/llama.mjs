// Generates with llama.cpp: node llama.mjs INSTALLED MODEL THREADS, where INSTALLED is a folder in
// which `npm install node-llama-cpp` was run. Each line read, a number of tokens, is answered by a
// line when a new text has so many.
import path from "node:path";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [installed, modelPath, threads] = process.argv.slice(2);
const entry = path.join(installed, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama} = await import(pathToFileURL(path.resolve(entry)));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({
    contextSize: 256, threads: Number(threads), performanceTracking: false,
});
const sequence = context.getSequence();
console.log("ready");
for await (const line of readline.createInterface({input: process.stdin})) {
    await sequence.clearHistory();
    let wanted = Number(line);
    const options = {temperature: 0.8, topK: 0, topP: 1, yieldEogToken: true};
    for await (const token of sequence.evaluate([0], options)) if (--wanted <= 0) break;
    console.log("done");
}
process.exit(0);
