// Talks in llama.cpp: node llama_chat.mjs INSTALLED MODEL, where INSTALLED is a folder in which
// `npm install node-llama-cpp` was run. Reads a list of messages as JSON, and writes the answers.
import path from "node:path";
import {text as readAll} from "node:stream/consumers";
import {pathToFileURL} from "node:url";

const [installed, modelPath] = process.argv.slice(2);
const entry = path.join(installed, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaChatSession} = await import(pathToFileURL(path.resolve(entry)));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 96, threads: 1});
const session = new LlamaChatSession({contextSequence: context.getSequence(), systemPrompt: ""});
const answers = [];
for (const message of JSON.parse(await readAll(process.stdin)))
    answers.push(await session.prompt(message, {temperature: 0, maxTokens: 20}));
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
