// Training: gradients of active entries, optimiser steps, selections. Arrays that are updated in
// place must be writable and contiguous: a copy would take the update.
#include "bindings.h"

#include "iam/training/optimiser.h"
#include "iam/training/select.h"

#include <vector>

namespace iam::py_ {
namespace {

using rt::Status;
using O = const py::object &;

std::string where(const char *op, const char *name) {
  return std::string(op) + ": expected " + name + " ";
}

/// An array that a kernel writes: float32 (or int64), C-contiguous, writable, of any rank.
template <typename T> class InOut {
public:
  InOut(const char *op, const char *name, const py::object &object, int rank = 0) {
    if (!py::isinstance<py::array_t<T>>(object))
      raiseDtype(where(op, name) + "as a NumPy array of dtype " +
                 std::string(py::str(py::dtype::of<T>())));
    array = py::reinterpret_borrow<py::array>(object);
    if (!array.writeable() || !(array.flags() & py::array::c_style) ||
        reinterpret_cast<std::uintptr_t>(array.data()) % sizeof(T) != 0)
      raise(rt::Code::kInvalidArgument,
            where(op, name) + "writable, aligned and C-contiguous, because it is updated in place");
    if (rank && array.ndim() != rank)
      raise(rt::Code::kShapeMismatch, where(op, name) + "of rank " + std::to_string(rank) +
                                          ", got rank " + std::to_string(array.ndim()));
    data = static_cast<T *>(array.mutable_data());
  }
  rt::Mat<T> mat() const { return {data, array.shape(0), array.shape(1)}; }
  rt::Vec<T> vec() const { return {data, array.size()}; }

private:
  py::array array;
  T *data = nullptr;
};

/// An input of any rank, seen as a vector in C order; copied if it does not lie so.
class Flat {
public:
  Flat(const char *op, const char *name, const py::object &object) {
    if (!py::isinstance<py::array_t<float>>(object))
      raiseDtype(where(op, name) + "as a NumPy array of dtype float32");
    array = py::array_t<float, py::array::c_style | py::array::forcecast>(object);
    if (reinterpret_cast<std::uintptr_t>(array.data()) % sizeof(float) != 0)
      array = py::reinterpret_borrow<py::array>(array.attr("copy")());
  }
  rt::Vec<const float> vec() const {
    return {static_cast<const float *>(array.data()), array.size()};
  }
  std::vector<py::ssize_t> shape() const { return {array.shape(), array.shape() + array.ndim()}; }

private:
  py::array array;
};

/// (features, offsets, order, rows), as train_group gives it.
class Group {
public:
  Group(const char *op, const py::object &object) {
    if (!py::isinstance<py::tuple>(object) || py::len(object) != 4)
      raise(rt::Code::kInvalidArgument,
            where(op, "group") + "as (features, offsets, order, rows), what train_group gives");
    const auto parts = py::reinterpret_borrow<py::tuple>(object);
    features = Input<int32_t>(op, "features", parts[0], 1);
    offsets = Input<int64_t>(op, "offsets", parts[1], 1);
    order = Input<int32_t>(op, "order", parts[2], 1);
    rows = Input<int32_t>(op, "rows", parts[3], 1);
  }
  rt::Grouped view() const { return {features.vec(), offsets.vec(), order.vec(), rows.vec()}; }

private:
  Input<int32_t> features;
  Input<int64_t> offsets;
  Input<int32_t> order, rows;
};

/// (features, rows [active, d]) or (group, weights, basis).
class Gradient {
public:
  Gradient(const char *op, const py::object &object) {
    const bool tuple = py::isinstance<py::tuple>(object);
    const std::size_t size = tuple ? py::len(object) : 0;
    if (size != 2 && size != 3)
      raise(rt::Code::kInvalidArgument, where(op, "grad") +
                                            "as (features, rows [active, d]) or (group, weights, "
                                            "basis [rows, d])");
    const auto parts = py::reinterpret_borrow<py::tuple>(object);
    if (size == 2) {
      features = Input<int32_t>(op, "features", parts[0], 1);
      rows = Input<float>(op, "rows", parts[1], 2);
      return;
    }
    group.emplace(op, parts[0]);
    weights.emplace(op, "weights", parts[1]);
    rows = Input<float>(op, "basis", parts[2], 2);
  }
  rt::SparseGradient view() const {
    rt::SparseGradient g;
    if (!group) {
      g.features = features.vec();
      g.rows = rows.mat();
      return g;
    }
    g.factored = true;
    g.grouped = group->view();
    g.features = g.grouped.features;
    g.weights = weights->vec();
    g.basis = rows.mat();
    return g;
  }

private:
  Input<int32_t> features;
  Input<float> rows;
  std::optional<Group> group;
  std::optional<Flat> weights;
};

/// A learning rate, or those of all steps so far.
class Rates {
public:
  Rates(const char *op, const py::object &object, bool history) {
    if (!history) {
      if (!PyFloat_Check(object.ptr()) && !PyLong_Check(object.ptr()) &&
          !py::hasattr(object, "__float__"))
        raise(rt::Code::kInvalidArgument, where(op, "lr") + "as a number");
      one = py::float_(object);
      return;
    }
    if (!py::isinstance<py::array_t<double>>(object) ||
        py::reinterpret_borrow<py::array>(object).ndim() != 1)
      raise(rt::Code::kInvalidArgument,
            where(op, "lr") + "as a float64 array [step] of the rates of all steps so far, because "
                              "`last` is given");
    array = py::array_t<double, py::array::c_style | py::array::forcecast>(object);
    many = {array.data(), array.size()};
  }
  Rates(const Rates &) = delete;
  rt::Vec<const double> vec() const { return many.data ? many : rt::Vec<const double>(&one, 1); }

private:
  double one = 0;
  py::array_t<double> array;
  rt::Vec<const double> many;
};

struct Weights {
  Weights(const char *op, O param, O m, O v, O last, bool columns) : param(op, "param", param, 2) {
    if (!m.is_none())
      this->m.emplace(op, "m", m, 2);
    if (!v.is_none())
      this->v.emplace(op, "v", v, 2);
    if (!last.is_none())
      this->last.emplace(op, "last", last, 1);
    view.p = this->param.mat();
    view.columns = columns;
    if (this->m)
      view.m = this->m->mat();
    if (this->v)
      view.v = this->v->mat();
    if (this->last)
      view.last = this->last->vec();
  }
  InOut<float> param;
  std::optional<InOut<float>> m, v;
  std::optional<InOut<int64_t>> last;
  rt::FeatureWeights view;
};

rt::Adam adamOf(const Rates &rates, double beta1, double beta2, double eps, int64_t step,
                double decay, double scale) {
  rt::Adam adam;
  adam.beta1 = beta1;
  adam.beta2 = beta2;
  adam.eps = eps;
  adam.decay = decay;
  adam.scale = scale;
  adam.step = step;
  adam.rates = rates.vec();
  return adam;
}

template <typename Kernel> py::array vectorResult(const char *op, int64_t size, Kernel &&kernel) {
  rt::Buffer<float> out;
  check(out.resize(size, op));
  call(op, [&] { return kernel(out.vec()); });
  return adopt(std::move(out), {size});
}

/// None, or features; `all` if None.
Input<int32_t> chosen(const char *op, O features, bool &all) {
  all = features.is_none();
  return all ? Input<int32_t>() : Input<int32_t>(op, "features", features, 1);
}

} // namespace

static void bindGradients(py::module_ &m) {
  m.def(
      "train_group",
      [](O values, O indices, O offsets, int64_t features) {
        const char *op = "iam.training.group";
        if (features < 0)
          raise(rt::Code::kInvalidArgument,
                std::string(op) + ": expected n_features >= 0, got " + std::to_string(features));
        const int rank = offsets.is_none() ? 2 : 1;
        const Input<float> v(op, "values", values, rank);
        const Input<int32_t> i(op, "indices", indices, rank);
        const auto o = optional<int64_t>(op, "offsets", offsets, 1);
        rt::GroupedResult out;
        call(op, [&] {
          return rank == 2 ? rt::group(rt::FixedCodes{v.mat(), i.mat()}, features, out)
                           : rt::group(rt::CsrCodes{v.vec(), i.vec(), o.vec()}, features, out);
        });
        const int64_t active = out.features.size(), entries = out.order.size();
        return py::make_tuple(
            adopt(std::move(out.features), {active}), adopt(std::move(out.offsets), {active + 1}),
            adopt(std::move(out.order), {entries}), adopt(std::move(out.rows), {entries}));
      },
      py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("n_features"),
      "Entries with a value other than 0, sorted by feature: (features [active], offsets [active + "
      "1], order [entries], rows [entries]).");
  m.def(
      "train_grad_values",
      [](O group, O upstream, O wDec, O like) {
        const char *op = "iam.training.grad_values";
        const Group g(op, group);
        const Input<float> u(op, "upstream", upstream, 2), w(op, "W_dec", wDec, 2);
        const Flat values(op, "values", like);
        const auto shape = values.shape();
        rt::Buffer<float> out;
        check(out.resize(values.vec().size, op));
        call(op, [&] { return rt::gradValues(g.view(), u.mat(), w.mat(), out.vec()); });
        return adopt(out.release(), py::dtype::of<float>(), shape.data(),
                     static_cast<int>(shape.size()));
      },
      py::arg("group"), py::arg("upstream"), py::arg("W_dec"), py::arg("values"),
      "<upstream[r], W_dec[f]> for grouped entries, 0 for the others; of the shape of values.");
  m.def(
      "train_grad_rows",
      [](O grad, O out, bool accumulate) -> py::object {
        const char *op = "iam.training.grad_rows";
        const Gradient g(op, grad);
        const rt::SparseGradient view = g.view();
        if (!out.is_none()) {
          const InOut<float> to(op, "out", out, 2);
          call(op, [&] { return rt::gradRows(view, accumulate, to.mat()); });
          return out;
        }
        const int64_t rows = view.features.size,
                      cols = view.factored ? view.basis.cols : view.rows.cols;
        rt::Buffer<float> made;
        check(made.resize(rows * cols, op));
        call(op, [&] { return rt::gradRows(view, false, {made.data(), rows, cols}); });
        return adopt(std::move(made), {rows, cols});
      },
      py::arg("grad"), py::arg("out") = py::none(), py::arg("accumulate") = false,
      "Rows [active, d] of a gradient (group, weights, basis): sum of weights[e] basis[row of e].");
  m.def(
      "train_grad_sums",
      [](O group, O weights, int64_t rows) {
        const char *op = "iam.training.grad_sums";
        const Group g(op, group);
        const Flat w(op, "weights", weights);
        return vectorResult(op, g.view().features.size, [&](rt::Vec<float> out) {
          return rt::gradSums(g.view(), w.vec(), rows, out);
        });
      },
      py::arg("group"), py::arg("weights"), py::arg("rows"),
      "Sum of weights[e] over the entries of each active feature: [active].");
  m.def(
      "train_column_sums",
      [](O matrix) {
        const char *op = "iam.training.column_sums";
        const Input<float> in(op, "m", matrix, 2);
        return vectorResult(op, in.mat().cols,
                            [&](rt::Vec<float> out) { return rt::columnSums(in.mat(), out); });
      },
      py::arg("m"), "Sums of the columns of m [rows, d], in float64: [d].");
  m.def(
      "train_grad_input",
      [](O wEnc, O features, O weights) {
        const char *op = "iam.training.grad_input";
        const Input<float> w(op, "W_enc", wEnc, 2), v(op, "weights", weights, 1);
        const Input<int32_t> f(op, "features", features, 1);
        return vectorResult(op, w.mat().rows, [&](rt::Vec<float> out) {
          return rt::gradInput(w.mat(), f.vec(), v.vec(), out);
        });
      },
      py::arg("W_enc"), py::arg("features"), py::arg("weights"),
      "W_enc[:, features] @ weights: [d].");
  m.def(
      "train_sum_squares",
      [](O grad, O project) {
        const char *op = "iam.training.sum_squares";
        double out = 0;
        if (py::isinstance<py::tuple>(grad)) {
          const Gradient g(op, grad);
          const auto along = optional<float>(op, "project", project, 2);
          call(op, [&] { return rt::sumSquares(g.view(), along.mat(), out); });
        } else {
          if (!project.is_none())
            raise(rt::Code::kInvalidArgument,
                  where(op, "project") + "only with a sparse gradient, (features, rows) or (group, "
                                         "weights, basis)");
          const Flat g(op, "grad", grad);
          call(op, [&] { return rt::sumSquares(g.vec(), out); });
        }
        return out;
      },
      py::arg("grad"), py::arg("project") = py::none(),
      "Sum of squares of an array or of a sparse gradient, in float64; with `project` [features, "
      "d] "
      "of the gradient's rows without their parts along its rows.");
  m.def(
      "train_project_rows",
      [](O rows, O features, O wDec) {
        const char *op = "iam.training.project_rows";
        const InOut<float> g(op, "rows", rows, 2);
        const Input<int32_t> f(op, "features", features, 1);
        const Input<float> w(op, "W_dec", wDec, 2);
        call(op, [&] { return rt::projectRows(g.mat(), f.vec(), w.mat()); });
      },
      py::arg("rows"), py::arg("features"), py::arg("W_dec"),
      "Take out of each row what is parallel to W_dec[feature]; in place.");
  m.def(
      "train_normalize_rows",
      [](O w, O features) {
        const char *op = "iam.training.normalize_rows";
        const InOut<float> rows(op, "w", w, 2);
        bool all = false;
        const auto f = chosen(op, features, all);
        call(op, [&] { return rt::normalizeRows(rows.mat(), f.vec(), all); });
      },
      py::arg("w"), py::arg("features") = py::none(),
      "Divide rows by their length, in place; zero rows stay.");
  m.def(
      "train_row_norms",
      [](O w) {
        const char *op = "iam.training.row_norms";
        const Input<float> in(op, "w", w, 2);
        return vectorResult(op, in.mat().rows,
                            [&](rt::Vec<float> out) { return rt::rowNorms(in.mat(), out); });
      },
      py::arg("w"), "Lengths of the rows of w: [rows].");
}

static void bindOptimisers(py::module_ &m) {
  m.def(
      "train_adam",
      [](O param, O grad, O mom, O var, O lr, int64_t step, double beta1, double beta2, double eps,
         double decay, double scale) {
        const char *op = "iam.training.adam";
        const InOut<float> p(op, "param", param), m1(op, "m", mom), v(op, "v", var);
        const Flat g(op, "grad", grad);
        const Rates rates(op, lr, false);
        const rt::Adam adam = adamOf(rates, beta1, beta2, eps, step, decay, scale);
        call(op, [&] { return rt::adamStep(p.vec(), g.vec(), m1.vec(), v.vec(), adam); });
      },
      py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("v"), py::kw_only(), py::arg("lr"),
      py::arg("step"), py::arg("beta1") = 0.9, py::arg("beta2") = 0.999, py::arg("eps") = 1e-8,
      py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0,
      "One step of Adam on arrays of one size, in place. Steps count from 1; scale multiplies the "
      "gradient.");
  const auto adamFeatures = [](const char *op, bool columns, O param, O mom, O var, O grad, O lr,
                               int64_t step, double beta1, double beta2, double eps, double decay,
                               double scale, O last, bool project, bool normalize) {
    Weights w(op, param, mom, var, last, columns);
    w.view.project = project;
    w.view.normalize = normalize;
    const Gradient g(op, grad);
    const Rates rates(op, lr, !last.is_none());
    const rt::Adam adam = adamOf(rates, beta1, beta2, eps, step, decay, scale);
    call(op, [&] { return rt::adamFeatures(w.view, g.view(), adam); });
  };
  m.def(
      "train_adam_rows",
      [adamFeatures](O param, O mom, O var, O grad, O lr, int64_t step, double beta1, double beta2,
                     double eps, double decay, double scale, O last, bool project, bool normalize) {
        adamFeatures("iam.training.adam_rows", false, param, mom, var, grad, lr, step, beta1, beta2,
                     eps, decay, scale, last, project, normalize);
      },
      py::arg("param"), py::arg("m"), py::arg("v"), py::arg("grad"), py::kw_only(), py::arg("lr"),
      py::arg("step"), py::arg("beta1") = 0.9, py::arg("beta2") = 0.999, py::arg("eps") = 1e-8,
      py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0, py::arg("last") = py::none(),
      py::arg("project") = false, py::arg("normalize") = false,
      "One step of Adam on param [features, d] with a sparse gradient, in place: of all features, "
      "or with `last` of those that have a gradient (lr is then the rates of steps 1 .. step).");
  m.def(
      "train_adam_columns",
      [adamFeatures](O param, O mom, O var, O grad, O lr, int64_t step, double beta1, double beta2,
                     double eps, double decay, double scale, O last) {
        adamFeatures("iam.training.adam_columns", true, param, mom, var, grad, lr, step, beta1,
                     beta2, eps, decay, scale, last, false, false);
      },
      py::arg("param"), py::arg("m"), py::arg("v"), py::arg("grad"), py::kw_only(), py::arg("lr"),
      py::arg("step"), py::arg("beta1") = 0.9, py::arg("beta2") = 0.999, py::arg("eps") = 1e-8,
      py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0, py::arg("last") = py::none(),
      "As train_adam_rows for param [d, features]; m and v are [features, d].");
  m.def(
      "train_adam_catch_up",
      [](O param, O mom, O var, O last, O features, O lr, int64_t step, double beta1, double beta2,
         double eps, double decay, bool normalize, bool columns) {
        const char *op = "iam.training.adam_catch_up";
        if (last.is_none())
          raise(rt::Code::kInvalidArgument, where(op, "last") + "as an array, got None");
        Weights w(op, param, mom, var, last, columns);
        w.view.normalize = normalize;
        bool all = false;
        const auto f = chosen(op, features, all);
        const Rates rates(op, lr, true);
        const rt::Adam adam = adamOf(rates, beta1, beta2, eps, step, decay, 1);
        call(op, [&] { return rt::adamCatchUp(w.view, f.vec(), all, adam); });
      },
      py::arg("param"), py::arg("m"), py::arg("v"), py::arg("last"),
      py::arg("features") = py::none(), py::kw_only(), py::arg("lr"), py::arg("step"),
      py::arg("beta1") = 0.9, py::arg("beta2") = 0.999, py::arg("eps") = 1e-8,
      py::arg("weight_decay") = 0.0, py::arg("normalize") = false, py::arg("columns") = false,
      "Lazy Adam: do the steps up to `step` that the features have not done, with gradient 0.");

  const auto signumFeatures = [](const char *op, bool columns, O param, O mom, O grad, double lr,
                                 double beta, double decay, double scale, bool project,
                                 bool normalize) {
    Weights w(op, param, mom, py::none(), py::none(), columns);
    w.view.project = project;
    w.view.normalize = normalize;
    const Gradient g(op, grad);
    const rt::Signum signum = {lr, beta, decay, scale};
    call(op, [&] { return rt::signumFeatures(w.view, g.view(), signum); });
  };
  m.def(
      "train_signum",
      [](O param, O grad, O mom, double lr, double beta, double decay, double scale) {
        const char *op = "iam.training.signum";
        const InOut<float> p(op, "param", param);
        const Flat g(op, "grad", grad);
        std::optional<InOut<float>> m1;
        if (!mom.is_none())
          m1.emplace(op, "m", mom);
        const rt::Signum signum = {lr, beta, decay, scale};
        call(op, [&] {
          return rt::signumStep(p.vec(), g.vec(), m1 ? m1->vec() : rt::Vec<float>(), signum);
        });
      },
      py::arg("param"), py::arg("grad"), py::arg("m"), py::kw_only(), py::arg("lr"),
      py::arg("beta") = 0.95, py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0,
      "One step of Signum in place; of signSGD if m is None.");
  m.def(
      "train_signum_rows",
      [signumFeatures](O param, O mom, O grad, double lr, double beta, double decay, double scale,
                       bool project, bool normalize) {
        signumFeatures("iam.training.signum_rows", false, param, mom, grad, lr, beta, decay, scale,
                       project, normalize);
      },
      py::arg("param"), py::arg("m"), py::arg("grad"), py::kw_only(), py::arg("lr"),
      py::arg("beta") = 0.95, py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0,
      py::arg("project") = false, py::arg("normalize") = false);
  m.def(
      "train_signum_columns",
      [signumFeatures](O param, O mom, O grad, double lr, double beta, double decay, double scale) {
        signumFeatures("iam.training.signum_columns", true, param, mom, grad, lr, beta, decay,
                       scale, false, false);
      },
      py::arg("param"), py::arg("m"), py::arg("grad"), py::kw_only(), py::arg("lr"),
      py::arg("beta") = 0.95, py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0);
}

static void bindSelections(py::module_ &m) {
  m.def(
      "train_encode_among",
      [](O x, O wEnc, O bEnc, O bDec, O among, int64_t k) {
        const char *op = "iam.training.encode_among";
        const Input<float> xs(op, "x", x, 2), w(op, "W_enc", wEnc, 2);
        const auto be = optional<float>(op, "b_enc", bEnc, 1),
                   bd = optional<float>(op, "b_dec", bDec, 1);
        const Input<int32_t> f(op, "among", among, 1);
        if (k < 1 || k > f.vec().size)
          raise(rt::Code::kKRange, std::string(op) + ": expected k in 1.." +
                                       std::to_string(f.vec().size) +
                                       " (features), got k=" + std::to_string(k));
        const int64_t rows = xs.mat().rows;
        rt::Buffer<float> values;
        rt::Buffer<int32_t> indices;
        check(values.resize(rows * k, op));
        check(indices.resize(rows * k, op));
        call(op, [&] {
          return rt::encodeAmong({xs.mat(), w.mat(), be.vec(), bd.vec()}, f.vec(),
                                 {{values.data(), rows, k}, {indices.data(), rows, k}});
        });
        return py::make_tuple(adopt(std::move(values), {rows, k}),
                              adopt(std::move(indices), {rows, k}));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("among"),
      py::arg("k"),
      "The k largest pre-activations of each row among given features, sign kept: (values, "
      "indices) [rows, k].");
  m.def(
      "train_encode_window",
      [](O x, O wEnc, O bEnc, O bDec, O theta, double eps) {
        const char *op = "iam.training.encode_window";
        const Input<float> xs(op, "x", x, 2), w(op, "W_enc", wEnc, 2), t(op, "threshold", theta, 1);
        const auto be = optional<float>(op, "b_enc", bEnc, 1),
                   bd = optional<float>(op, "b_dec", bDec, 1);
        rt::CsrResult out;
        call(op, [&] {
          return rt::encodeWindow({xs.mat(), w.mat(), be.vec(), bd.vec()}, t.vec(), eps, out);
        });
        const int64_t nnz = out.values.size(), rows1 = out.offsets.size();
        return py::make_tuple(adopt(std::move(out.values), {nnz}),
                              adopt(std::move(out.indices), {nnz}),
                              adopt(std::move(out.offsets), {rows1}));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("threshold"),
      py::arg("bandwidth"),
      "Pre-activations above threshold - bandwidth / 2 as CSR: what JumpReLU has gradients for.");
  m.def(
      "train_batch_select",
      [](O values, O indices, int64_t total) {
        const char *op = "iam.training.batch_select";
        const Input<float> v(op, "values", values, 2);
        const Input<int32_t> i(op, "indices", indices, 2);
        rt::CsrResult out;
        bool exact = false;
        call(op, [&] { return rt::batchSelect({v.mat(), i.mat()}, total, out, exact); });
        const int64_t nnz = out.values.size(), rows1 = out.offsets.size();
        return py::make_tuple(adopt(std::move(out.values), {nnz}),
                              adopt(std::move(out.indices), {nnz}),
                              adopt(std::move(out.offsets), {rows1}), exact);
      },
      py::arg("values"), py::arg("indices"), py::arg("total"),
      "The `total` largest positive values of a batch: (values, indices, offsets, exact); not "
      "exact "
      "if a row had all its candidates kept.");
  m.def(
      "train_jumprelu_grad",
      [](O h, O indices, O theta, double eps, O dF, O dS, bool toInput) {
        const char *op = "iam.training.jumprelu_grad";
        const Input<float> hs(op, "h", h, 1), t(op, "threshold", theta, 1), f(op, "d_f", dF, 1);
        const auto s = optional<float>(op, "d_step", dS, 1);
        const Input<int32_t> i(op, "indices", indices, 1);
        const int64_t n = hs.vec().size;
        rt::Buffer<float> dH, dTheta;
        check(dH.resize(n, op));
        check(dTheta.resize(n, op));
        call(op, [&] {
          return rt::jumpreluGrad({hs.vec(), i.vec(), t.vec(), eps, toInput}, f.vec(), s.vec(),
                                  dH.vec(), dTheta.vec());
        });
        return py::make_tuple(adopt(std::move(dH), {n}), adopt(std::move(dTheta), {n}));
      },
      py::arg("h"), py::arg("indices"), py::arg("threshold"), py::arg("bandwidth"), py::arg("d_f"),
      py::arg("d_step") = py::none(), py::arg("ste_to_input") = false,
      "Gradients (d_h, d_theta) [entries] of JumpReLU with a rectangle as its derivative.");
}

void bindTraining(py::module_ &m) {
  bindGradients(m);
  bindOptimisers(m);
  bindSelections(m);
}

} // namespace iam::py_
