/** Weights out of a safetensors file, and the few operations on vectors and matrices that the model is made of. */

import { QwenError } from "./errors.js";

const BYTES = { BF16: 2, F32: 4 };
const ROWS = 8; // that linear takes at once
const damaged = (why) => new QwenError("damaged-weights", `The weight file is damaged or incomplete: ${why}.`);

/**
 * What a safetensors file holds: 8 bytes that say how long the header is, the header in JSON, then the numbers.
 * @returns {Map<string, {dtype: string, shape: number[], start: number, end: number}>} by name, places in bytes
 * @throws {QwenError} damaged-weights; unsupported-model for a dtype other than bf16 and f32
 */
export function readHeader(buffer) {
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < 8) throw damaged("it has no header");
  const dataStart = 8 + Number(new DataView(buffer).getBigUint64(0, true)), tensors = new Map();
  if (dataStart > buffer.byteLength) throw damaged("it ends within its header");
  let dataEnd = dataStart;
  try {
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, dataStart - 8)));
    for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
      const [start, end] = offsets.map((offset) => dataStart + offset), size = BYTES[dtype];
      if (!size) throw new QwenError("unsupported-model", `${name} has the dtype ${dtype}.`);
      if (!(start >= dataStart && end - start === shape.reduce((product, length) => product * length, size)))
        throw damaged(`${name} is not as large as its shape`);
      dataEnd = Math.max(dataEnd, end);
      tensors.set(name, { dtype, shape, start, end });
    }
  } catch (error) {
    throw error instanceof QwenError ? error : damaged("its header makes no sense");
  }
  if (dataEnd !== buffer.byteLength) throw damaged(`it has ${buffer.byteLength} bytes and not ${dataEnd}`);
  return tensors;
}

/**
 * The numbers of a tensor of `readHeader` in float32. Rows of a matrix are woven, ROWS at a time: the first number of each,
 * the second of each, ..., so that `linear` reads it from front to back. A vector stays as it is.
 */
export function toFloat32(buffer, { dtype, shape: [rows, size = 1], start, end }) {
  const bytes = buffer.slice(start, end), from = dtype === "F32" ? new Uint32Array(bytes) : new Uint16Array(bytes);
  const bits = new Uint32Array(rows * size), shift = dtype === "F32" ? 0 : 16; // bfloat16 is the upper half of a float32
  for (let row = 0, at = 0; row < rows; row += ROWS)
    for (let i = 0, end = Math.min(row + ROWS, rows); i < size; i++)
      for (let place = row * size + i; place < end * size; place += size, at++)
        bits[at] = from[place] << shift;
  return new Float32Array(bits.buffer);
}

/** output = one row of a woven matrix of `rows` rows. */
export function copyRow(matrix, rows, row, output) {
  const size = output.length, first = row - (row % ROWS), height = Math.min(ROWS, rows - first);
  for (let i = 0, at = first * size + row - first; i < size; i++, at += height) output[i] = matrix[at];
}

/**
 * output = weight · input, for a woven weight of (output.length, input.length). ROWS rows at once, for the time goes here:
 * each number of the input is read once for all of them, and no sum waits for another.
 */
export function linear(weight, input, output) {
  const rows = output.length, size = input.length;
  let row = 0, at = 0;
  for (; row + ROWS <= rows; row += ROWS) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < size; i++, at += ROWS) {
      const x = input[i];
      s0 += weight[at] * x; s1 += weight[at + 1] * x; s2 += weight[at + 2] * x; s3 += weight[at + 3] * x;
      s4 += weight[at + 4] * x; s5 += weight[at + 5] * x; s6 += weight[at + 6] * x; s7 += weight[at + 7] * x;
    }
    output[row] = s0; output[row + 1] = s1; output[row + 2] = s2; output[row + 3] = s3;
    output[row + 4] = s4; output[row + 5] = s5; output[row + 6] = s6; output[row + 7] = s7;
  }
  for (const left = rows - row; row < rows; row++, at++) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += weight[at + i * left] * input[i];
    output[row] = sum;
  }
}

/** Divides by the root mean square, then scales every component; `input` holds one vector or several in a row. */
export function rmsNorm(weight, eps, input, output) {
  const size = weight.length;
  for (let start = 0; start < input.length; start += size) {
    let squares = 0;
    for (let i = start; i < start + size; i++) squares += input[i] * input[i];
    const scale = 1 / Math.sqrt(squares / size + eps);
    for (let i = 0; i < size; i++) output[start + i] = weight[i] * (input[start + i] * scale);
  }
}

/** Softmax in place, of values[start] to values[end - 1]. */
export function softmax(values, start, end) {
  let largest = -Infinity, sum = 0;
  for (let i = start; i < end; i++) if (values[i] > largest) largest = values[i];
  for (let i = start; i < end; i++) sum += values[i] = Math.exp(values[i] - largest);
  for (let i = start; i < end; i++) values[i] /= sum;
}

/** accumulator += factor * values */
export function addScaled(accumulator, values, factor) {
  for (let i = 0; i < accumulator.length; i++) accumulator[i] += factor * values[i];
}
